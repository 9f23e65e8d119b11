"""Batch norm folded into the convolution before it: y = scale * conv(x) + bias.

    scale = gamma / sqrt(moving_variance + epsilon)
    bias  = beta + (biases - moving_mean) * scale

in double precision. The weights themselves are scaled while they are packed, so they are read once and never copied.
What cannot fold, a norm before a convolution (preact, postnorm), stays scale and shift of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError
from .network import Conv, Network

Weights = Mapping[str, npt.NDArray[np.float32]]
Vector = npt.NDArray[np.float64]


class ScaleShift(NamedTuple):
    """An inference-time batch norm: y = scale * x + shift, one value each a channel, float64."""

    scale: Vector
    shift: Vector


class FoldedConv(NamedTuple):
    """A convolution with its batch norm: weights (H, W, in, out) float32 as stored, scale and bias float64."""

    weights: npt.NDArray[np.float32]
    scale: Vector | None
    bias: Vector


def fold_norm(weights: Weights, scope: str, epsilon: float) -> ScaleShift:
    """Return a batch norm as scale and shift.

    >>> parts = {"gamma": 2, "beta": 1, "moving_mean": 3, "moving_variance": 4}
    >>> fold_norm({f"bn/{k}": np.float32([v]) for k, v in parts.items()}, "bn", epsilon=0.0)
    ScaleShift(scale=array([1.]), shift=array([-2.]))
    """
    gamma, beta, mean, variance = (
        np.asarray(weights[f"{scope}/{part}"], np.float64)
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + epsilon)
    return ScaleShift(scale, beta - mean * scale)


def group_affine(weights: Weights, scope: str) -> ScaleShift:
    """Return what a group norm multiplies with and adds once its groups are normal."""
    gamma, beta = (np.asarray(weights[f"{scope}/{part}"], np.float64) for part in ("gamma", "beta"))
    return ScaleShift(gamma, beta)


def fold_conv(weights: Weights, conv: Conv, epsilon: float) -> FoldedConv:
    """Return a convolution with its batch norm, where it has one.

    Args:
        weights: under slim's names without the scope.
        conv: its row of the network's table.
        epsilon: of batch norm.
    """
    kernel = weights[f"{conv.name}/weights"]
    bias = (
        np.asarray(weights[f"{conv.name}/biases"], np.float64) if conv.bias else np.zeros(conv.depth, dtype=np.float64)
    )
    if conv.norm != "bn":
        return FoldedConv(kernel, None, bias)
    norm = fold_norm(weights, conv.norm_scope, epsilon)
    return FoldedConv(kernel, norm.scale, norm.shift + bias * norm.scale)


def check_values(weights: Weights, network: Network, source: str) -> None:
    """Refuse values that no network can compute with, all at once.

    Raises:
        CheckpointError: a variable that holds NaN or infinite values, or a variance so negative that epsilon cannot
            make up for it.
    """
    wrong = []
    for name in network.variables:
        # A sum is finite unless a value is not, or the values are absurd: one pass, and no copy.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(np.sum(weights[name]))
        if suspicious and (bad := int(np.count_nonzero(~np.isfinite(weights[name])))):
            wrong.append(f"{name}: {bad} of {weights[name].size} values are NaN or infinite")
        elif name.endswith("/moving_variance"):
            lowest = float(np.min(weights[name], initial=np.inf))
            if not lowest + network.epsilon > 0:
                wrong.append(f"{name}: its smallest value is {lowest:g}")
    if wrong:
        raise CheckpointError(
            f"{source}: {len(wrong)} variables hold values that cannot be computed with",
            found=wrong,
            help="the file is damaged, or was written by a training that had diverged",
        )
