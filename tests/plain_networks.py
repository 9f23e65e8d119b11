"""Small networks of every form that a plain graph can have, with weights that are not trivial."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resforward import NETWORKS, Block, Network, bottleneck, resnet_v1, resnet_v2
from resforward.families import SLIM_V2, Pool, Stem
from resforward.network import resnet

BLOCKS = [
    Block("block1", bottleneck, [(16, 4, 1), (16, 4, 1), (16, 4, 2)]),
    Block("block2", bottleneck, [(32, 8, 1), (32, 8, 2)]),
    Block("block3", bottleneck, [(64, 16, 1)] * 2),
]


def _deep_stem(pool: Pool) -> Network:
    return resnet(SLIM_V2, BLOCKS, 5, stem=Stem(kernel=7, stride=2, widths=(8, 12), bias=True, norm=True, pool=pool))


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
    "fashion": NETWORKS["fashion"],
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
