"""The forward pass of a ResNet in NumPy, in TF-slim's words: slow, readable, and what the engine is tested against.

    net, end_points = forward(network, weights, images)

Every function is the one of its name in google-research/tf-slim (tf_slim/nets/resnet_utils.py, resnet_v1.py,
resnet_v2.py). Nothing is folded, fused or cached: batch norm is computed where slim computes it, and every tensor on
the way is collected under its name. Read it from the top: a convolution, a batch norm, a pool; a unit made of them; a
stack of units; a network.

Arrays are (N, H, W, C): batch, height, width, channels. Weights are slim's variables without the network's scope, a
dict with the keys of `Network.variables`; convolution kernels are (height, width, channels in, channels out).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import NetworkError
from .families import GROUPS, Pool
from .network import INPUT_NORM, Conv, Network, Unit

Array = NDArray[Any]
Weights = Mapping[str, Array]
EndPoints = dict[str, Array]


def subsample(inputs: Array, factor: int) -> Array:
    """Keep every `factor`-th pixel of each axis, starting with the first.

    >>> subsample(np.arange(5).reshape(1, 1, 5, 1), 2).ravel()
    array([0, 2, 4])

    Args:
        inputs: (N, H, W, C).
        factor: step, pixels; the result is (N, ceil(H / factor), ceil(W / factor), C).
    """
    return inputs[:, ::factor, ::factor]


def conv2d_same(inputs: Array, weights: Array, stride: int = 1, rate: int = 1) -> Array:
    """Convolve with zero padding that is the same on both sides, whatever the stride.

    So a strided convolution is the dense one, subsampled. TensorFlow's SAME is not: on an even axis it pads one pixel
    less in front.

    >>> conv2d_same(np.ones((1, 1, 4, 1)), np.ones((3, 3, 1, 1)), stride=2).ravel()
    array([2., 3.])

    Args:
        inputs: (N, H, W, C).
        weights: (kernel, kernel, C, K), kernel odd.
        stride: step between outputs, pixels; the result is (N, ceil(H / stride), ceil(W / stride), K).
        rate: distance between the taps of the kernel, pixels.
    """
    batch, height, width, _ = inputs.shape
    kernel, _, _, depth = weights.shape
    pad = rate * (kernel // 2)
    padded = np.pad(inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    outputs = np.zeros((batch, -(-height // stride), -(-width // stride), depth), inputs.dtype)
    for r, s in np.ndindex(kernel, kernel):
        y, x = r * rate, s * rate
        tap = padded[:, y : y + height : stride, x : x + width : stride]
        outputs += np.tensordot(tap, weights[r, s], axes=1)
    return outputs


def batch_norm(
    inputs: Array, gamma: Array, beta: Array, moving_mean: Array, moving_variance: Array, epsilon: float
) -> Array:
    """Normalise each channel by the statistics stored at training, then scale and shift it.

    >>> batch_norm(np.array([[[[7.0]]]]), gamma=2.0, beta=1.0, moving_mean=5.0, moving_variance=4.0, epsilon=0.0)
    array([[[[3.]]]])

    Args:
        inputs: (N, H, W, C).
        gamma, beta, moving_mean, moving_variance: (C,).
        epsilon: added to the variance.
    """
    return (inputs - moving_mean) / np.sqrt(moving_variance + epsilon) * gamma + beta


def group_norm(inputs: Array, gamma: Array, beta: Array, groups: int, epsilon: float) -> Array:
    """Normalise each group of channels of each image by its own statistics, then scale and shift each channel.

    >>> group_norm(np.array([[[[1.0, 3.0]]]]), gamma=np.array([1.0, 2.0]), beta=np.zeros(2), groups=1, epsilon=0.0)
    array([[[[-1.,  2.]]]])

    Args:
        inputs: (N, H, W, C).
        gamma, beta: (C,).
        groups: of neighbouring channels; they divide C.
        epsilon: added to the variance.
    """
    grouped = inputs.reshape(*inputs.shape[:3], groups, -1)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = np.square(grouped - mean).mean(axis=(1, 2, 4), keepdims=True)
    normal: Array = (grouped - mean) / np.sqrt(variance + epsilon)
    return normal.reshape(inputs.shape) * gamma + beta


def relu(inputs: Array) -> Array:
    """Replace what is negative by zero.

    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return np.maximum(inputs, 0)


def max_pool2d(inputs: Array, pool: Pool) -> Array:
    """Take the largest value of each window.

    >>> max_pool2d(-np.arange(1.0, 5.0).reshape(1, 1, 4, 1), Pool(3, 2, "same")).ravel()  # slim pads with -inf
    array([-1., -3.])

    Args:
        inputs: (N, H, W, C).
        pool: window, stride, and how the windows lie; see `Pool`.
    """
    _, height, width, _ = inputs.shape
    pads = []
    for size in (height, width):
        out, before = pool.geometry(size)
        pads.append((before, max((out - 1) * pool.stride + pool.kernel - size - before, 0)))
    padded = np.pad(inputs, ((0, 0), *pads, (0, 0)), constant_values=-np.inf if pool.fill == "-inf" else 0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (pool.kernel, pool.kernel), axis=(1, 2))
    outputs: Array = subsample(windows, pool.stride).max(axis=(-2, -1))
    return outputs


def avg_pool2d(inputs: Array, stride: int) -> Array:
    """Take the mean of each stride x stride pixels; at the far rims, of those that are there.

    >>> avg_pool2d(np.arange(5.0).reshape(1, 1, 5, 1), 2).ravel()
    array([0.5, 2.5, 4. ])

    Args:
        inputs: (N, H, W, C).
        stride: side of the windows, and the step between them, pixels.
    """
    _, height, width, _ = inputs.shape
    pads = [(0, -size % stride) for size in (height, width)]
    sums = np.zeros((), inputs.dtype)
    counts = np.zeros((), inputs.dtype)
    padded = np.pad(inputs, ((0, 0), *pads, (0, 0)))
    inside = np.pad(np.ones((1, height, width, 1), inputs.dtype), ((0, 0), *pads, (0, 0)))
    for y, x in np.ndindex(stride, stride):
        sums = sums + padded[:, y::stride, x::stride]
        counts = counts + inside[:, y::stride, x::stride]
    return sums / counts


def softmax(logits: Array) -> Array:
    """Turn logits into probabilities along the last axis.

    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    exp: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))  # the largest exponent is 0, so none overflows
    total: Array = exp.sum(axis=-1, keepdims=True)
    return exp / total


def _norm(inputs: Array, scope: str, weights: Weights, epsilon: float) -> Array:
    if f"{scope}/moving_mean" not in weights:
        return group_norm(inputs, weights[f"{scope}/gamma"], weights[f"{scope}/beta"], GROUPS, epsilon)
    gamma, beta, mean, variance = (weights[f"{scope}/{v}"] for v in ("gamma", "beta", "moving_mean", "moving_variance"))
    return batch_norm(inputs, gamma, beta, mean, variance, epsilon)


def conv2d(inputs: Array, conv: Conv, weights: Weights, epsilon: float) -> Array:
    """Compute one row of the table: `conv2d_same`, then its bias, batch norm and ReLU where it has them.

    >>> conv2d(np.ones((1, 1, 1, 1)), Conv("logits", 1, 1, 1), {"logits/weights": np.full((1, 1, 1, 1), 3.0)}, 1e-5)
    array([[[[3.]]]])

    Args:
        inputs: (N, H, W, conv.depth_in).
        conv: what to compute, and under which name its variables are.
        weights: by name.
        epsilon: of batch norm.
    """
    net = conv2d_same(inputs, weights[f"{conv.name}/weights"], conv.stride, conv.rate)
    if conv.bias:
        net = net + weights[f"{conv.name}/biases"]
    if conv.norm:
        net = _norm(net, conv.norm_scope, weights, epsilon)
    return relu(net) if conv.relu else net


def bottleneck(inputs: Array, unit: Unit, weights: Weights, epsilon: float, end_points: EndPoints) -> Array:
    """Compute one residual unit, bottleneck or basic: shortcut + residual.

    v2: preact = relu(bn(inputs)); a projection and the residual path both read it; nothing follows the sum.
    v1: both read the inputs; ReLU follows the sum.

    >>> from resforward import NETWORKS
    >>> unit = NETWORKS["resnet_v2_50"].units[1]
    >>> weights = {name: np.ones(shape) for name, shape in unit.variables.items()}
    >>> bottleneck(np.ones((1, 7, 7, 256)), unit, weights, 1e-5, end_points={}).shape
    (1, 7, 7, 256)

    Args:
        inputs: (N, H, W, unit.depth_in).
        unit: its row of the table.
        weights: by name.
        epsilon: of batch norm.
        end_points: gains the unit's tensors by name.

    Raises:
        NetworkError: a shortcut, or a last step, that is not known here.
    """
    if unit.shortcut == "zero_pad" or unit.post not in ("none", "relu"):
        raise NetworkError(f"the reference knows no shortcut `{unit.shortcut}` with `{unit.post}` after the sum")
    preact = inputs
    if unit.pre != "none":
        end_points[f"{unit.name}/preact"] = preact = relu(_norm(inputs, f"{unit.name}/preact", weights, epsilon))
    if unit.projection:
        shortcut = preact if unit.pre == "both" else inputs
        if unit.shortcut == "avg_projection":
            shortcut = avg_pool2d(shortcut, unit.stride)
        shortcut = conv2d(shortcut, unit.projection, weights, epsilon)
        end_points[unit.projection.name] = shortcut
    else:
        shortcut = subsample(inputs, unit.stride)
    residual = preact
    for conv in unit.convs:
        end_points[conv.name] = residual = conv2d(residual, conv, weights, epsilon)
    output = relu(shortcut + residual) if unit.post == "relu" else shortcut + residual
    end_points[unit.name] = output
    return output


def root_block(images: Array, network: Network, weights: Weights, end_points: EndPoints) -> Array:
    """Compute what comes before the first Block: a 7x7 convolution and a max-pool, or nothing.

    >>> from resforward import NETWORKS
    >>> network = NETWORKS["resnet_v2_50"]
    >>> weights = {name: np.ones(shape) for name, shape in network.variables.items() if name.startswith("conv1/")}
    >>> root_block(np.ones((1, 33, 47, 3)), network, weights, end_points={}).shape
    (1, 9, 12, 64)

    Args:
        images: (N, H, W, network.input_channels).
        network: the table.
        weights: by name.
        end_points: gains `conv1` and `pool1`.
    """
    net = images
    if network.family.input_norm:
        net = _norm(net, INPUT_NORM, weights, network.epsilon)
    for conv in network.stem_convs:
        end_points[conv.name] = net = conv2d(net, conv, weights, network.epsilon)
    if network.stem and network.stem.pool:
        end_points["pool1"] = net = max_pool2d(net, network.stem.pool)
    return net


def stack_blocks_dense(inputs: Array, network: Network, weights: Weights, end_points: EndPoints) -> Array:
    """Compute all Blocks, unit after unit. Strides and rates are the table's; see `with_output_stride`.

    >>> from resforward import Block, bottleneck, resnet_v2
    >>> network = resnet_v2([Block("block1", bottleneck, [(4, 1, 2)])], include_root_block=False)
    >>> weights = {name: np.ones(shape) for name, shape in network.variables.items()}
    >>> stack_blocks_dense(np.ones((1, 5, 8, 3)), network, weights, end_points={}).shape
    (1, 3, 4, 4)

    Args:
        inputs: (N, H, W, depth of the root block).
        network: the table.
        weights: by name.
        end_points: gains every unit's tensors, and the Blocks'.
    """
    net = inputs
    for block, units in network.blocks.items():
        for unit in units:
            net = bottleneck(net, unit, weights, network.epsilon, end_points)
        end_points[block] = net
    return net


def _head(features: Array, network: Network, weights: Weights, end_points: EndPoints) -> Array:
    net = features
    if network.global_pool:
        end_points["global_pool"] = net = net.mean(axis=(1, 2), keepdims=True)
    if network.logits:
        end_points["logits"] = net = conv2d(net, network.logits, weights, network.epsilon)
        end_points["predictions"] = softmax(net)
    return net


def resnet_v1(network: Network, weights: Weights, images: Array) -> tuple[Array, EndPoints]:
    """Compute a post-activation network; arguments and results are those of `forward`.

    >>> from resforward import resnet as tables
    >>> network = tables.resnet_v1([tables.resnet_block("block1", base_depth=1, num_units=2, stride=2)], num_classes=5)
    >>> weights = {name: np.ones(shape) for name, shape in network.variables.items()}
    >>> list(resnet_v1(network, weights, np.ones((1, 9, 9, 3)))[1])[-4:]
    ['block1', 'global_pool', 'logits', 'predictions']
    """
    end_points: EndPoints = {}
    net = root_block(images, network, weights, end_points)
    net = stack_blocks_dense(net, network, weights, end_points)
    return _head(net, network, weights, end_points), end_points


def resnet_v2(network: Network, weights: Weights, images: Array) -> tuple[Array, EndPoints]:
    """Compute a pre-activation network; arguments and results are those of `forward`.

    >>> from resforward import resnet as tables
    >>> network = tables.resnet_v2([tables.resnet_block("block1", base_depth=1, num_units=2, stride=2)], num_classes=5)
    >>> weights = {name: np.ones(shape) for name, shape in network.variables.items()}
    >>> list(resnet_v2(network, weights, np.ones((1, 9, 9, 3)))[1])[-4:]
    ['postnorm', 'global_pool', 'logits', 'predictions']
    """
    end_points: EndPoints = {}
    net = root_block(images, network, weights, end_points)
    net = stack_blocks_dense(net, network, weights, end_points)
    # A unit's sum is activated by the unit after it, and the last has none.
    end_points["postnorm"] = net = relu(_norm(net, "postnorm", weights, network.epsilon))
    return _head(net, network, weights, end_points), end_points


def forward(
    network: Network, weights: Mapping[str, ArrayLike], images: ArrayLike, dtype: DTypeLike = np.float32
) -> tuple[Array, EndPoints]:
    """Compute a network and every tensor on the way.

    >>> from resforward import Block, bottleneck, resnet_v2
    >>> network = resnet_v2([Block("block1", bottleneck, [(4, 1, 2)])], num_classes=10)
    >>> weights = {name: np.ones(shape) for name, shape in network.variables.items()}
    >>> net, end_points = forward(network, weights, np.ones((2, 33, 47, 3)))
    >>> net.shape, end_points["block1"].shape
    ((2, 1, 1, 10), (2, 5, 6, 4))

    Args:
        network: the table.
        weights: an array for each name in `network.variables`, of its shape.
        images: (N, H, W, network.input_channels), preprocessed.
        dtype: what is computed in; float64 makes an oracle for kernels that compute in float32.

    Returns:
        The last tensor: logits, or features where there is no classifier; and all of `network.end_points(H, W)` by
        name, in its order, all (N, height, width, depth): also (N, 1, 1, depth) after the global pool.

    Raises:
        KeyError: a variable that is not in `weights`.
        ValueError: arrays whose shapes do not fit each other.
    """
    program = resnet_v2 if network.family.final_norm else resnet_v1
    values = {name: np.asarray(weights[name], dtype) for name in network.variables}
    return program(network, values, np.asarray(images, dtype))
