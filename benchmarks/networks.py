"""The networks that are measured: slim's by their names, and torchvision's."""

from __future__ import annotations

from resforward import NETWORKS, Block, Network, basic
from resforward.families import TORCH_V1
from resforward.published import BASIC_UNITS, UNITS, block_strides, standard_blocks
from resforward.resnet import resnet


def _torchvision(layers: int) -> Network:
    strides = block_strides(TORCH_V1, 4)
    if layers in UNITS:
        blocks = standard_blocks(UNITS[layers], TORCH_V1)
    else:
        blocks = [
            Block(f"block{i + 1}", basic, [(64 << i, 64 << i, stride if unit == 0 else 1) for unit in range(count)])
            for i, (count, stride) in enumerate(zip(BASIC_UNITS[layers], strides, strict=True))
        ]
    return resnet(TORCH_V1, blocks, TORCH_V1.classes, name=f"resnet{layers}")


MEASURED: dict[str, Network] = {
    **{name: NETWORKS[name] for name in ("resnet_v2_50", "resnet_v2_152")},
    **{f"torchvision/resnet{layers}": _torchvision(layers) for layers in (18, 50)},
}
