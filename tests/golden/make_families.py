"""Write small checkpoints of torchvision's and timm's own network code, and what it computes: tests/golden/families/.

    python tests/golden/make_families.py        # torch 2.13.0, torchvision 0.28.0, timm 1.0.31

Real units, root blocks and heads of the libraries, with few and narrow ones of them. Each case is a state dict as
`torch.save` writes it, and an .npz of its input and of the tensors by the library's names.
"""

# ruff: noqa: E402  (tests/ goes on the path first)
from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from oracles.check_families import randomise, torchvision

FOLDER = Path(__file__).parent / "families"
SIZE = (1, 37, 22, 3)  # odd, and not square

library = torchvision()
import timm
from timm.layers import BatchNormAct2d, GroupNormAct, StdConv2d, create_conv2d
from timm.models import resnet as timm_resnet
from timm.models import resnetv2 as timm_resnetv2


def torchvision_net(unit: Any, widths: tuple[int, ...]) -> Any:
    """Torchvision's network from its own parts; its constructor has no say in the widths."""
    net = library.models.resnet.ResNet(unit, [1, 1, 1, 1], num_classes=5)
    net.inplanes = widths[0]
    net.conv1 = torch.nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(widths[0])
    for index, (width, units) in enumerate(zip(widths, (2, 2, 1, 1), strict=True), start=1):
        setattr(net, f"layer{index}", net._make_layer(unit, width, units, stride=1 if index == 1 else 2))
    net.fc = torch.nn.Linear(widths[-1] * unit.expansion, 5)
    return net


def timm_v1(unit: Any, **options: Any) -> Any:
    return timm_resnet.ResNet(unit, [2, 1, 1, 1], num_classes=5, channels=(4, 8, 8, 12), **options)


def timm_v2(**options: Any) -> Any:
    layers = {"conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    return timm_resnetv2.ResNetV2([2, 1, 1, 1], channels=(16, 16, 32, 32), num_classes=5, **layers, **options)


def bit() -> Any:
    layers = {"conv_layer": partial(StdConv2d, eps=1e-8), "norm_layer": partial(GroupNormAct, num_groups=32)}
    return timm_resnetv2.ResNetV2([2, 1], channels=(128, 128), num_classes=5, stem_chs=32, stem_type="fixed", **layers)


CASES: dict[str, Callable[[], Any]] = {
    "torchvision_basic": lambda: torchvision_net(library.models.resnet.BasicBlock, (6, 8, 12, 16)),
    "torchvision_bottleneck": lambda: torchvision_net(library.models.resnet.Bottleneck, (4, 6, 8, 8)),
    "timm_v1d": lambda: timm_v1(timm_resnet.Bottleneck, stem_width=4, stem_type="deep", avg_down=True),
    "timm_v1s": lambda: timm_v1(timm_resnet.BasicBlock, stem_width=4, stem_type="deep"),
    "timm_v2": lambda: timm_v2(stem_chs=8),
    "timm_v2_basic": lambda: timm_v2(stem_chs=16, basic=True),
    "timm_v2d": lambda: timm_v2(stem_chs=8, stem_type="deep", avg_down=True),
    "bit": bit,
}


def write(name: str, make: Callable[[], Any]) -> None:
    """One case."""
    torch.manual_seed(0)
    net = make().eval()
    randomise(net)
    images = np.random.default_rng(1).standard_normal(SIZE, np.float32)
    found = {"images": images}

    def keep(module_name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            found[module_name] = output.numpy().copy()

        return hook

    for module_name, module in net.named_modules():
        if module_name.count(".") <= 1 or ("blocks" in module_name and module_name.count(".") == 3):
            module.register_forward_hook(keep(module_name))
    with torch.inference_mode():
        found["logits"] = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    torch.save(net.state_dict(), FOLDER / f"{name}.pth")
    del found[""]
    np.savez_compressed(FOLDER / f"{name}.npz", **found)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in CASES.items():
        if name in (sys.argv[1:] or CASES):
            write(name, make)
    versions = f"torch {torch.__version__}, torchvision {library.__version__}, timm {timm.__version__}"
    (FOLDER / "versions.txt").write_text(f"{versions}\n")
