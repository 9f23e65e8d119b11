"""Numbers too small for the processor's fast path cost nothing, wherever they come from.

A multiplication that reads or makes a denormal takes about a hundred cycles more, and a whole network of them runs 10
to 50 times slower. So the engine takes them for zero. What is measured is a ratio, of runs that take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from test_model import each_isa, images_of

from resforward import Block, Model, bottleneck, build, resnet_v2

# Maps of 15 x 15: chains and Winograd's method. The root block, the pool and the head run too.
NETWORK = resnet_v2([Block("block1", bottleneck, [(64, 32, 1), (64, 32, 1)])], 9)
SIZE = (60, 60)
TINY = np.float32(1e-39)  # the smallest normal float32 is 1.2e-38
RUNS = 7

Weights = dict[str, np.ndarray]


def is_weight(name: str) -> bool:
    return name.endswith("/weights")


def is_winograd(name: str) -> bool:
    return name.endswith("conv2/weights")


def without_offsets(weights: Weights) -> Weights:
    """Every layer is linear or a ReLU, so activations are as large as the image."""
    offsets = ("beta", "moving_mean", "biases")
    return {name: np.zeros_like(w) if name.endswith(offsets) else w for name, w in weights.items()}


def scaled(weights: Weights, factor: float, which: Callable[[str], bool]) -> Weights:
    return {name: w * np.float32(factor) if which(name) else w for name, w in weights.items()}


# What is tiny: weights and images from ordinary ones.
CASES: dict[str, Callable[[Weights, np.ndarray], tuple[Weights, np.ndarray]]] = {
    "images": lambda weights, images: (without_offsets(weights), images * TINY),
    "weights": lambda weights, images: (scaled(weights, TINY, is_weight), images),
    "products": lambda weights, images: (without_offsets(weights), images * np.float32(3e-38)),
    "products of weights": lambda weights, images: (
        without_offsets(scaled(weights, 1e-20, is_weight)), images * np.float32(1e-19),
    ),
    "Winograd's weights": lambda weights, images: (scaled(weights, 1e-37, is_winograd), images),
    "norms": lambda weights, images: (
        {name: np.full_like(w, TINY) if name.endswith("beta") else w for name, w in without_offsets(weights).items()},
        np.zeros_like(images),
    ),
}  # fmt: skip


def seconds(model: Model, images: np.ndarray) -> float:
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start


def ratio(model: Model, images: np.ndarray, normal: Model, normal_images: np.ndarray) -> float:
    """How much longer it takes, the median of runs that take turns."""
    pairs = [(seconds(model, images), seconds(normal, normal_images)) for _ in range(RUNS + 1)]
    return float(np.median([a / b for a, b in pairs[1:]]))  # the first makes the plans


@each_isa
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_denormals_cost_nothing(case: str, threads: int, isa: str) -> None:
    normal, normal_images = build(NETWORK, isa=isa, threads=threads), images_of(NETWORK, 2, *SIZE)
    weights, images = CASES[case](normal.weights, normal_images)
    model = Model(NETWORK, weights, isa=isa, threads=threads)
    layout = model._plan(images.shape, (model._last_name(),))[1]
    assert any(step.then for step in layout.steps), "no chain"
    assert any(step.kind == "winograd" for step in layout.steps), "nothing by Winograd's method"
    # Other processes may slow one side down for a while; a slow path is slow every time.
    assert any(ratio(model, images, normal, normal_images) < 2 for _ in range(20))
    assert np.isfinite(model(images)).all()
