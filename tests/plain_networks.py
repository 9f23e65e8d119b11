"""Small networks of every form that a plain graph can have, with weights that are not trivial."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resforward import NETWORKS, Block, Network, basic, bottleneck, resnet_v1, resnet_v2
from resforward.families import BIT, KERAS_V1, KERAS_V2, SLIM_V2, TIMM_V2, TORCH_V1, Family, Pool, Stem
from resforward.resnet import resnet

BLOCKS = [
    Block("block1", bottleneck, [(16, 4, 1), (16, 4, 1), (16, 4, 2)]),
    Block("block2", bottleneck, [(32, 8, 1), (32, 8, 2)]),
    Block("block3", bottleneck, [(64, 16, 1)] * 2),
]


# Strides in the first unit of a Block; a Block of the stem's width, whose first unit projects or not by family.
EARLY = [
    Block("block1", bottleneck, [(16, 4, 1), (16, 4, 1)]),
    Block("block2", bottleneck, [(32, 8, 2), (32, 8, 1)]),
    Block("block3", bottleneck, [(64, 16, 2), (64, 16, 1)]),
]
BASIC = [
    Block("block1", basic, [(16, 16, 1), (16, 16, 1)]),
    Block("block2", basic, [(32, 32, 2), (32, 32, 1)]),
    Block("block3", basic, [(64, 64, 2), (64, 64, 1)]),
]
GROUPED = [
    Block("block1", bottleneck, [(96, 32, 1), (96, 32, 1)]),
    Block("block2", bottleneck, [(192, 64, 2), (192, 64, 1)]),
]


def _stem(family: Family, *widths: int) -> Stem:
    return replace(family.stem, kernel=7 if len(widths) == 1 else 3, widths=widths)


def _early(family: Family, blocks: list[Block] = EARLY, *widths: int, **options: Any) -> Network:
    return resnet(family, blocks, 7, stem=_stem(family, *(widths or (16,))), **options)


def _deep_stem(pool: Pool) -> Network:
    stem = Stem(kernel=7, stride=2, widths=(8, 12), bias=True, norm=True, relu=True, pool=pool)
    return resnet(SLIM_V2, BLOCKS, 5, stem=stem)


def _folded(family: Family, blocks: list[Block], *widths: int) -> Network:
    """As exporters leave it that fold norms into the convolutions before them."""
    stem = replace(_stem(family, *(widths or (16,))), bias=True, norm=False)
    row = replace(family, bias=(True,) * 3, norms=(False,) * 3, shortcut_bias=True, shortcut_norm=False)
    return resnet(row, blocks, 7, stem=stem)


CASES = {
    "v1": resnet_v1(BLOCKS, 7),
    "v2": resnet_v2(BLOCKS, 7),
    "v1 dense": resnet_v1(BLOCKS, 7, global_pool=False, output_stride=8),
    "v2 dense": resnet_v2(BLOCKS, 7, global_pool=False, output_stride=8),
    "features": resnet_v1(BLOCKS),
    "features, no root block": resnet_v2(BLOCKS, global_pool=False, include_root_block=False),
    "map of v1": resnet_v1(BLOCKS, global_pool=False),
    "symmetric pool": _deep_stem(Pool(3, 2, "symmetric")),
    "pool over zeros": _deep_stem(Pool(3, 2, "symmetric", fill="zero")),
    "Caffe's pool": _deep_stem(Pool(3, 2, "ceil")),
    "Keras v1": _early(KERAS_V1),
    "Keras v2": _early(KERAS_V2, BLOCKS),
    "torch": _early(TORCH_V1),
    "torch, dense": _early(TORCH_V1, global_pool=False, output_stride=4),
    "torch, basic units": _early(TORCH_V1, BASIC),
    "torch, basic units, dense": _early(TORCH_V1, BASIC, global_pool=False, output_stride=8),
    "timm v1d": _early(replace(TORCH_V1, projection="avg_projection"), EARLY, 8, 8, 16),
    "timm v2": _early(TIMM_V2),
    "timm v2, basic units": _early(TIMM_V2, BASIC),
    "timm v2d": _early(replace(TIMM_V2, projection="avg_projection"), EARLY, 8, 8, 16),
    "BiT": _early(BIT, GROUPED, 32),
    "fashion": NETWORKS["fashion"],
    "torch, folded": _folded(TORCH_V1, EARLY),
    "timm v1d, folded": _folded(replace(TORCH_V1, projection="avg_projection"), EARLY, 8, 8, 16),
    "timm v2, basic units, folded": _folded(TIMM_V2, BASIC),
    "norm on the image": _early(replace(TIMM_V2, input_norm=True)),
}
SIZES = [(32, 32), (33, 47), (64, 29)]


def random_weights(network: Network) -> dict[str, NDArray[np.float32]]:
    """Values near 1 all the way through, with batch norms that shift and scale."""
    random = np.random.default_rng(0)
    weights = {}
    for name, shape in network.variables.items():
        if name.endswith("/weights"):
            array = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))  # He's
            if name.startswith("logits/"):
                array /= 10  # a softmax turns rounding of the largest logit into a difference of probabilities
        elif name.endswith(("/gamma", "/moving_variance")):
            array = random.uniform(0.5, 1.5, shape)
        else:
            array = 0.1 * random.standard_normal(shape)
        weights[name] = array.astype(np.float32)
    return weights


def random_images(network: Network, size: tuple[int, int], batch: int) -> NDArray[np.float32]:
    """(batch, height, width, channels)."""
    return np.random.default_rng(1).standard_normal((batch, *size, network.input_channels), np.float32)
