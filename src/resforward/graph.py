"""A network and its weights as a list of plain operations, for whoever writes them down for another engine.

    graph = plain_graph(model.network, model.weights)
    for node in graph.nodes: ...                        # every input is `images` or the name of an earlier node

Nothing is folded or fused, as an exporter leaves it: batch norm and ReLU are operations of their own. A tensor that is
an end point has its name; what lies between is called after it, `conv1/Conv` before the batch norm of `conv1`.

| operation | computes | weights | attributes |
|---|---|---|---|
| conv | a convolution over zero padding | weights (kernel, kernel, in, out), maybe biases | stride, dilation, padding |
| norm | batch norm by channel | gamma, beta, moving_mean, moving_variance | epsilon |
| group_norm | each group of channels made normal, then scaled and shifted by channel | gamma, beta | groups, epsilon |
| relu | max(x, 0) | | |
| add | the sum of its two inputs | | |
| pad | zeros around the map | | padding |
| max_pool | the largest value of each window; padding never is | | kernel, stride, padding |
| avg_pool | the mean of each window; at the far rims, of what is there | | kernel, stride |
| subsample | every stride-th pixel, from the first | | stride |
| identity | its input, under a second name: a Block's is its last unit's | | |
| mean | the mean over height and width, which become 1 | | |
| flatten | (1, 1, depth) as (depth,) | | |
| dense | a matrix product | weights (in, out), biases | |
| softmax | probabilities over the channels | | |

Padding is (top, left, bottom, right), pixels. Where it depends on the image's size and that is free, a max-pool's is
the word of its `Pool.padding` instead: "same" as TensorFlow's SAME, or "ceil": none, and the last window may be cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import NetworkError
from .families import GROUPS, Norm, Pool
from .network import INPUT_NORM, NORM_PARTS, Conv, Network, Unit

Array = npt.NDArray[np.float32]
Shape = tuple[int | None, ...]
Op = Literal[
    "conv", "norm", "group_norm", "relu", "add", "pad", "max_pool", "avg_pool", "subsample", "identity", "mean",
    "flatten", "dense", "softmax",
]  # fmt: skip
Padding = tuple[int, int, int, int]

INPUT = "images"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation and the tensor that it makes.

    >>> graph = plain_graph(NETWORKS["fashion"], build("fashion").weights)
    >>> conv = graph.nodes[0]
    >>> conv.op, conv.name, conv.inputs, conv.shape, conv.attributes["padding"], conv.weights["weights"].shape
    ('conv', 'conv1', ('images',), (None, None, 32), (1, 1, 1, 1), (3, 3, 1, 32))

    Args:
        op: of the table in this module's docstring, which says its weights and attributes.
        name: of the tensor.
        inputs: names of the tensors that it reads.
        shape: of the tensor for one image: (height, width, depth), None where the size is free; (depth,) when flat.
        scope: of its variables: `conv1` for conv1/weights and conv1/biases; empty without weights.
        weights: the arrays as stored, by the last part of the variable's name.
        attributes: numbers, by name.
    """

    op: Op
    name: str
    inputs: tuple[str, ...]
    shape: Shape
    scope: str = ""
    weights: Mapping[str, Array] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network as operations in order of computation.

    >>> plain_graph(NETWORKS["fashion"], build("fashion").weights, ["block1"], size=(28, 28)).outputs
    ('logits', 'block1')

    Args:
        name: of the network.
        shape: of one image, the tensor `images`: (height, width, channels), None where the size is free.
        nodes: in order.
        outputs: names of the tensors that are wanted: the last one, then the end points that were asked for.
        channels_last: the images of the file that it was read from are (N, H, W, C).
    """

    name: str
    shape: Shape
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    channels_last: bool = False


def plain_graph(
    network: Network,
    weights: Mapping[str, Array],
    end_points: Iterable[str] = (),
    *,
    size: tuple[int, int] | None = None,
) -> Graph:
    """Spell a network out as plain operations; logits come last, or what it ends with where there is no classifier.

    >>> graph = plain_graph(NETWORKS["fashion"], build("fashion").weights, ["predictions"])
    >>> [node.op for node in graph.nodes][-6:]
    ['norm', 'relu', 'mean', 'flatten', 'dense', 'softmax']

    Args:
        network: the table.
        weights: {variable: array}, the names and shapes of `network.variables`.
        end_points: of further outputs, by canonical name or full slim key; one may be a string.
        size: height and width of the images, pixels; None leaves them free.

    Raises:
        NetworkError: a network of parts that no published slim network has, or an image of no pixels.
        EndPointError: a name that is no end point of this network.
    """
    *_, last = network.end_points(*(size or (1, 1)))  # names are the same at every size
    outputs = tuple(
        dict.fromkeys(["logits" if last == "predictions" else last, *network.canonical(end_points).values()])
    )
    if network.uncomputed:
        raise NetworkError(f"{network.name} has parts that no plain operation computes", found=network.uncomputed)
    builder = _Builder(network, weights, outputs, (*(size or (None, None)), network.input_channels))
    builder.forward()
    nodes = tuple(builder.nodes)
    if len(builder.shapes) != 1 + len(nodes):
        raise NetworkError(f"{network.name} has Blocks whose names collide with those of other tensors")
    return Graph(network.name, builder.shapes[INPUT], nodes, outputs)


class _Builder:
    """Nodes in order of computation; every method returns the name of the tensor it added."""

    def __init__(self, network: Network, weights: Mapping[str, Array], outputs: Sequence[str], image: Shape) -> None:
        self.network = network
        self.weights = weights
        self.outputs = outputs
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: image}

    def forward(self) -> None:
        """The whole network."""
        network, net = self.network, INPUT
        if network.family.input_norm:
            net = self.norm(INPUT_NORM, net, INPUT_NORM, "bn")
        for conv in network.stem_convs:
            net = self.conv(conv, net)
        if network.stem and network.stem.pool:
            net = self.pool(network.stem.pool, net)
        for block, units in network.blocks.items():
            for unit in units:
                net = self.unit(unit, net)
            if block in self.outputs:
                self.add("identity", block, [net])
        if network.family.final_norm:
            net = self.norm_relu("postnorm", net)
        if network.global_pool:
            net = self.add("mean", "global_pool", [net], (1, 1, network.depth))
        if network.logits:
            net = self.classifier(network.logits, net)
            if "predictions" in self.outputs:
                self.add("softmax", "predictions", [net])

    def unit(self, unit: Unit, net: str) -> str:
        """A residual unit: shortcut + residual path, with what its family puts before and after."""
        path = self.norm_relu(f"{unit.name}/preact", net) if unit.pre != "none" else net
        shortcut = path if unit.pre == "both" else net
        if unit.shortcut == "avg_projection":
            shape = self.strided(shortcut, unit.stride, unit.depth_in)
            name, side = f"{unit.name}/shortcut/AvgPool", unit.stride
            shortcut = self.add("avg_pool", name, [shortcut], shape, kernel=side, stride=side)
        if unit.projection:
            shortcut = self.conv(unit.projection, shortcut)
        elif unit.stride > 1:
            shape = self.strided(shortcut, unit.stride, unit.depth)
            shortcut = self.add("subsample", f"{unit.name}/subsample", [shortcut], shape, stride=unit.stride)
        for conv in unit.convs:
            path = self.conv(conv, path)
        if unit.post == "none":
            return self.add("add", unit.name, [shortcut, path])
        return self.add("relu", unit.name, [self.add("add", f"{unit.name}/Add", [shortcut, path])])

    def conv(self, conv: Conv, net: str) -> str:
        """A convolution and the norm and ReLU that belong to it."""
        name = conv.name
        net = self.add(
            "conv",
            f"{name}/Conv" if conv.norm or conv.relu else name,
            [net],
            self.strided(net, conv.stride, conv.depth),
            scope=name,
            parts=("weights", "biases") if conv.bias else ("weights",),
            stride=conv.stride,
            dilation=conv.rate,
            padding=(conv.rate * (conv.kernel // 2),) * 4,
        )
        if conv.norm:
            net = self.norm(conv.norm_scope, net, conv.norm_scope if conv.relu else name, conv.norm)
        return self.add("relu", name, [net]) if conv.relu else net

    def norm_relu(self, scope: str, net: str) -> str:
        """A norm, then ReLU."""
        kind = self.network.family.norm
        word = "BatchNorm" if kind == "bn" else "GroupNorm"
        return self.add("relu", scope, [self.norm(scope, net, f"{scope}/{word}", kind)])

    def norm(self, scope: str, net: str, name: str, kind: Norm) -> str:
        """A norm with the variables of `scope`."""
        epsilon = self.network.epsilon
        if kind == "gn":
            return self.add(
                "group_norm", name, [net], scope=scope, parts=NORM_PARTS[kind], groups=GROUPS, epsilon=epsilon
            )
        return self.add("norm", name, [net], scope=scope, parts=NORM_PARTS[kind], epsilon=epsilon)

    def pool(self, pool: Pool, net: str) -> str:
        """The max-pool of the root block with its family's alignment."""
        *size, depth = self.shapes[net]
        shape = (*(None if side is None else pool.geometry(side)[0] for side in size), depth)
        padding = _pool_padding(pool, size)
        if pool.fill == "zero":
            if isinstance(padding, str):
                raise NetworkError(
                    f"{self.network.name} pads pool1 with zeros, and how many depends on the image's size",
                    help="give a size",
                )
            top, left, bottom, right = padding
            padded = [None if s is None else s + p for s, p in zip(size, (top + bottom, left + right), strict=True)]
            net = self.add("pad", "pool1/Pad", [net], (*padded, depth), padding=padding)
            padding = (0, 0, 0, 0)
        return self.add("max_pool", "pool1", [net], shape, kernel=pool.kernel, stride=pool.stride, padding=padding)

    def classifier(self, logits: Conv, net: str) -> str:
        """A matrix product over the pooled features, or a 1x1 convolution where none were pooled."""
        if not self.network.global_pool:
            return self.conv(logits, net)
        net = self.add("flatten", "logits/Flatten", [net], (self.network.depth,))
        return self.add("dense", "logits", [net], (logits.depth,), scope="logits", parts=("weights", "biases"))

    def strided(self, net: str, stride: int, depth: int) -> Shape:
        """The shape of a tensor after a step that pads as much as it loses at the rims."""
        height, width, _ = self.shapes[net]
        return *(None if side is None else (side - 1) // stride + 1 for side in (height, width)), depth

    def add(
        self,
        op: Op,
        name: str,
        inputs: Sequence[str],
        shape: Shape | None = None,
        scope: str = "",
        parts: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """A node; its shape is that of its last input unless told."""
        weights = {part: self.weights[f"{scope}/{part}"] for part in parts}
        if op == "dense":
            weights["weights"] = weights["weights"][0, 0]
        shape = self.shapes[inputs[-1]] if shape is None else shape
        self.shapes[name] = shape
        self.nodes.append(Node(op, name, tuple(inputs), shape, scope, weights, attributes))
        return name


def _pool_padding(pool: Pool, size: Sequence[int | None]) -> Padding | Literal["same", "ceil"]:
    """Padding that the windows need at this size; where that is free and they need it known, the word for the rule."""
    if pool.padding == "symmetric":
        beside = pool.kernel // 2
        return beside, beside, beside, beside
    rims = []
    for side in size:
        if side is None:
            return pool.padding
        out, before = pool.geometry(side)
        rims.append((before, max((out - 1) * pool.stride + pool.kernel - side - before, 0)))
    (top, bottom), (left, right) = rims
    return top, left, bottom, right
