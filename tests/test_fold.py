"""Batch norm folded into convolutions, against the formula it comes from, in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from resforward import Block, bottleneck, build, resnet_v1, resnet_v2
from resforward.errors import CheckpointError
from resforward.fold import check_values, fold_conv, fold_norm
from resforward.model import Model
from resforward.network import Conv

BLOCKS = [Block("block1", bottleneck, [(6, 3, 1), (6, 3, 2)])]
PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


def random_norm(scope: str, depth: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"{scope}/{part}": rng.uniform(0.1, 2, depth).astype(np.float32) for part in PARTS}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_a_folded_convolution_is_the_convolution_and_its_norm(bias: bool, norm: bool) -> None:
    rng = np.random.default_rng(0)
    conv = Conv("conv1", 1, 4, 5, bias=bias, norm="bn" if norm else None)
    weights = random_norm("conv1/BatchNorm", 5, seed=1)
    weights |= {"conv1/weights": rng.normal(size=(1, 1, 4, 5)).astype(np.float32)}
    weights |= {"conv1/biases": rng.normal(size=5).astype(np.float32)}
    folded = fold_conv(weights, conv, epsilon=1e-3)
    assert folded.weights is weights["conv1/weights"]  # scaled while packed, never copied

    x = rng.normal(size=(7, 4))
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    wanted = x @ exact["conv1/weights"][0, 0] + (exact["conv1/biases"] if bias else 0)
    if norm:
        gamma, beta, mean, variance = (exact[f"conv1/BatchNorm/{part}"] for part in PARTS)
        wanted = gamma * (wanted - mean) / np.sqrt(variance + 1e-3) + beta
    scale = 1.0 if folded.scale is None else folded.scale
    found = x @ (exact["conv1/weights"][0, 0] * scale) + folded.bias
    assert folded.bias.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)  # a few roundings of float64, values below 100


def test_a_norm_of_its_own_is_scale_and_shift() -> None:
    weights = random_norm("postnorm", 5, seed=2)
    scale, shift = fold_norm(weights, "postnorm", epsilon=1e-5)
    gamma, beta, mean, variance = (weights[f"postnorm/{part}"].astype(np.float64) for part in PARTS)
    x = np.linspace(-3, 3, 5)
    np.testing.assert_allclose(scale * x + shift, gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta, rtol=1e-14)


def test_variances_that_no_norm_can_have_are_all_named() -> None:
    network = resnet_v2(BLOCKS, num_classes=3)
    weights = dict(build(network).weights)
    check_values(weights, network, "good.ckpt")
    names = [name for name in weights if name.endswith("moving_variance")]
    for name, value in zip(names, (-1.0, np.nan, -2e-5), strict=False):
        weights[name] = weights[name].copy()
        weights[name][1] = value
    with pytest.raises(CheckpointError, match=r"bad\.ckpt: 3 variables") as caught:
        check_values(weights, network, "bad.ckpt")
    assert [line.split(":")[0] for line in caught.value.found] == names[:3]
    with pytest.raises(CheckpointError, match="3 variables"):
        Model(network, weights, source="bad.ckpt")


@pytest.mark.parametrize("value", [0.0, -9e-6])
def test_epsilon_makes_up_for_a_variance_of_nothing(value: float) -> None:
    network = resnet_v1(BLOCKS, num_classes=3)
    weights = dict(build(network).weights)
    weights["conv1/BatchNorm/moving_variance"] = np.full(64, value, np.float32)
    assert np.isfinite(Model(network, weights)(np.ones((1, 9, 9, 3), np.float32))).all()
