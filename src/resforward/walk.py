"""Residual units in a plain graph, found by what is computed: from the images to the last tensor, node after node.

Each node must be what comes next in a ResNet; the one that is not is named in the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError
from .families import GROUPS, Fill, Pool, Pre, Shortcut
from .graph import INPUT, Graph, Node, Padding

Array = npt.NDArray[Any]

_MOST_UNITS = 1024


@dataclass
class Affine:
    """Norms in a row: what is left of them as one."""

    batch: Node | None = None  # with statistics, and nothing after it
    group: Node | None = None
    before: tuple[Array, Array] | None = None  # scale and shift of what comes before it
    after: tuple[Array, Array] | None = None  # and after


@dataclass
class Layer:
    """A convolution with its padding and what follows it."""

    node: Node
    padding: Padding
    affine: Affine
    relu: bool
    output: str

    @property
    def kernel(self) -> int:
        return int(self.node.weights["weights"].shape[0])

    @property
    def depth(self) -> int:
        return int(self.node.weights["weights"].shape[-1])

    @property
    def normed(self) -> bool:
        return self.affine.batch is not None or self.affine.group is not None


@dataclass
class FoundUnit:
    """A residual unit as it was found."""

    node: Node  # its sum
    pre: Pre
    preact: Affine | None
    layers: list[Layer]
    shortcut: Shortcut
    projection: Layer | None
    stride: int
    relu: bool
    depth_in: int


@dataclass
class FoundNetwork:
    """Everything from the images to the last tensor."""

    input_channels: int
    channels_last: bool
    input_norm: Affine | None = None
    stem: list[Layer] = field(default_factory=list)
    pool: Pool | None = None
    units: list[FoundUnit] = field(default_factory=list)
    postnorm: Affine | None = None
    global_pool: bool = False
    classifier: Layer | None = None
    softmax: bool = False


class Walk:
    """From the images on, one node after another; each must be what comes next in a ResNet."""

    def __init__(self, graph: Graph, source: str, bare_stem: bool = False) -> None:
        self.graph, self.source, self.bare_stem = graph, source, bare_stem
        self.nodes = {node.name: node for node in graph.nodes}
        self.same = {INPUT: INPUT}
        for node in graph.nodes:  # in order of computation
            known = self.same.get(node.inputs[0], node.inputs[0])
            self.same[node.name] = known if node.op in ("identity", "flatten") else node.name
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            if node.op not in ("identity", "flatten"):
                for name in node.inputs:
                    self.readers.setdefault(self.same[name], []).append(node)
        self.visited: set[str] = set()

    def refused(self, node: Node | None, why: str) -> CheckpointError:
        where = f"node `{node.name[:80]}` ({node.op})" if node else "its last node"
        return CheckpointError(
            f"{self.source} is no ResNet that is known here: it stops being one at {where}",
            found=[why],
            help="other networks are for onnxruntime",
        )

    def read_by(self, name: str) -> list[Node]:
        return self.readers.get(name, [])

    def only(self, name: str) -> Node | None:
        """The one node that reads a tensor; None where there are none, or several."""
        readers = self.read_by(name)
        return readers[0] if len(readers) == 1 else None

    def take(self, node: Node) -> str:
        """Count a node as understood; its tensor's name."""
        self.visited.add(node.name)
        return node.name

    def all(self) -> FoundNetwork:
        channels = self.graph.shape[-1] or 0
        found = FoundNetwork(channels, self.graph.channels_last)
        name = self.stem(found)
        depth = found.stem[-1].depth if found.stem else channels
        while unit := self.unit(name, depth):
            found.units.append(unit)
            if len(found.units) > _MOST_UNITS:
                raise self.refused(unit.node, f"more than {_MOST_UNITS} units come before it")
            depth, name = unit.layers[-1].depth, self.after_sum(unit)
        if not found.units:
            raise self.refused(next(iter(self.read_by(name)), None), "no residual unit begins here")
        self.head(found, name)
        left = [
            node for node in self.graph.nodes if self.same[node.name] == node.name and node.name not in self.visited
        ]
        if left:
            raise self.refused(left[0], "it lies beside the way from the images to the last tensor")
        return found

    def stem(self, found: FoundNetwork) -> str:
        """The root block, where there is one; the name of what the first unit reads."""
        name, reader = INPUT, self.only(INPUT)
        if reader and reader.op == "norm":
            after, affine = self.norms(INPUT, taken=False)
            following = self.only(after)
            if following and following.op in ("conv", "pad"):
                self.norms(INPUT)
                found.input_norm, name = affine, after
        while (reader := self.only(name)) and (conv := self.convolution(reader)):
            layer = self.layer(conv, reader)
            if self.bare_stem and not self.convolution(self.only(layer.output)):
                self.visited -= set(self.between(conv.name, layer.output))
                layer = replace(layer, affine=Affine(), relu=False, output=conv.name)
            found.stem.append(layer)
            name = layer.output
        if reader and found.stem and (pool := self.pool(reader)):
            node, found.pool = pool
            name = self.take(node)
        return name

    def between(self, first: str, last: str) -> Iterable[str]:
        """Names from after one tensor up to another, along single readers."""
        while first != last and (node := self.only(first)):
            first = node.name
            yield first

    def convolution(self, node: Node | None) -> Node | None:
        """A convolution, perhaps behind its padding."""
        if node and node.op == "pad":
            node = self.only(node.name)
        return node if node and node.op == "conv" else None

    def pool(self, node: Node) -> tuple[Node, Pool] | None:
        """A max-pool, perhaps behind zeros that count."""
        fill: Fill = "-inf"
        told: Any = node.attributes.get("padding")
        if node.op == "pad" and (pool := self.only(node.name)) and pool.op == "max_pool":
            if pool.attributes["padding"] not in ((0, 0, 0, 0), "ceil"):
                raise self.refused(pool, "it pads twice")
            self.take(node)
            node, fill = pool, "zero"
        if node.op != "max_pool":
            return None
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        if isinstance(told, str):
            return node, Pool(kernel, stride, "same" if told == "same" else "ceil", fill)
        source = self.nodes[self.same[node.inputs[0]]]
        if source.op == "pad":
            source = self.nodes[self.same[source.inputs[0]]]
        sides = source.shape[:2]
        for padding in ("symmetric", "same", "ceil"):
            pool_row = Pool(kernel, stride, padding, fill)
            if padding == "symmetric" and set(told) == {kernel // 2}:
                return node, pool_row
            if all(side is not None for side in sides) and _rims(pool_row, [side or 0 for side in sides]) == told:
                return node, pool_row
        raise self.refused(node, f"its padding is {told}, and no family pads like that at every size of the images")

    def norms(self, name: str, taken: bool = True) -> tuple[str, Affine]:
        """Norms in a row from a tensor on."""
        nodes = []
        while (node := self.only(name)) and node.op in ("norm", "group_norm"):
            nodes.append(node)
            name = self.take(node) if taken else node.name
        return name, self.combined(nodes)

    def combined(self, nodes: Sequence[Node]) -> Affine:
        found = Affine()
        if any(node.op == "group_norm" for node in nodes):
            (place,) = [i for i, node in enumerate(nodes) if node.op == "group_norm"][:1]
            if any(node.op == "group_norm" for node in nodes[place + 1 :]):
                raise self.refused(nodes[-1], "one group norm follows another")
            found.group = nodes[place]
            found.before, found.after = product(nodes[:place]), product(nodes[place + 1 :])
            if found.group.attributes["groups"] != GROUPS:
                raise self.refused(
                    found.group, f"it has {found.group.attributes['groups']} groups, and {GROUPS} are computed here"
                )
        elif nodes and nodes[-1].attributes["epsilon"] > 0 and not any(n.attributes["epsilon"] > 0 for n in nodes[:-1]):
            found.batch, found.before = nodes[-1], product(nodes[:-1])
        else:
            found.before = product(nodes)
        return found

    def layer(self, conv: Node, first: Node) -> Layer:
        """A convolution with the padding before it, the norms after it, and its ReLU."""
        padding: Padding = conv.attributes["padding"]
        if first is not conv:
            top, left, bottom, right = first.attributes["padding"]
            padding = (padding[0] + top, padding[1] + left, padding[2] + bottom, padding[3] + right)
            self.take(first)
        weights, rate = conv.weights["weights"], conv.attributes["dilation"]
        kernel = weights.shape[0]
        if kernel % 2 == 0 or set(padding) != {rate * (kernel // 2)}:
            raise self.refused(
                conv, f"a kernel of {kernel} pixels is padded by {padding}, and a ResNet's by half of it all around"
            )
        name, affine = self.norms(self.take(conv))
        relu = (node := self.only(name)) is not None and node.op == "relu"
        if node and relu:
            name = self.take(node)
        return Layer(conv, padding, affine, relu, name)

    def unit(self, name: str, depth_in: int) -> FoundUnit | None:
        """The residual unit that begins at a tensor, or None."""
        readers = self.read_by(name)
        pre: Pre = "none"
        preact, branch = None, name
        norm = next((node for node in readers if node.op in ("norm", "group_norm")), None)
        if norm and len(readers) <= 2:
            nodes, after = [norm], norm.name
            while (node := self.only(after)) and node.op in ("norm", "group_norm"):
                nodes.append(node)
                after = node.name
            relu = self.only(after)
            if relu and relu.op == "relu" and (len(readers) == 2 or len(self.read_by(relu.name)) == 2):
                pre = "both" if len(readers) == 1 else "residual"
                preact, branch = self.combined(nodes), relu.name
                self.visited |= {relu.name, *(node.name for node in nodes)}
        starts = [node for node in readers if node is not norm] if pre == "residual" else []
        starts += self.read_by(branch)
        if len(starts) > 2:
            raise self.refused(starts[2], f"{len(starts)} nodes read what it reads; a residual unit begins with two")
        if len(starts) < 2:
            return None
        paths = sorted((self.path(start) for start in starts), key=lambda path: len(path.layers))
        shortcut, residual = paths
        if len(shortcut.layers) > 1 or len(residual.layers) < 2 or shortcut.sum is not residual.sum:
            raise self.refused(residual.sum, "the two ways that end here are no shortcut and no residual path")
        if pre == "residual" and starts.index(residual.start) == 0:
            raise self.refused(residual.sum, "its shortcut is behind the norm, and its residual path is not")
        if pre == "both" and not shortcut.layers:
            raise self.refused(residual.sum, "its shortcut is behind a norm, and no projection")
        self.take(residual.sum)
        strides = [layer.node.attributes["stride"] for layer in residual.layers]
        stride = math.prod(strides)
        if stride != max(strides):
            raise self.refused(residual.sum, f"several of its convolutions have strides: {strides}")
        if shortcut.stride != stride:
            raise self.refused(residual.sum, f"its shortcut has the stride {shortcut.stride}, the other way {stride}")
        for layer in residual.layers[:-1]:
            if not layer.relu:
                raise self.refused(layer.node, "no ReLU follows it, and other convolutions do")
        for last in (residual.layers[-1], *shortcut.layers):
            if last.relu:
                raise self.refused(last.node, "a ReLU comes between it and the sum")
        relu = self.only(residual.sum.name)
        post = relu is not None and relu.op == "relu"
        if relu and post:
            self.take(relu)
        kind = shortcut.kind if shortcut.layers else "identity" if stride == 1 else "subsample"
        projection = shortcut.layers[0] if shortcut.layers else None
        return FoundUnit(residual.sum, pre, preact, residual.layers, kind, projection, stride, post, depth_in)

    def after_sum(self, unit: FoundUnit) -> str:
        reader = self.only(unit.node.name)
        return reader.name if unit.relu and reader else unit.node.name

    def path(self, start: Node) -> _Path:
        """One of a unit's two ways, up to the sum."""
        node, layers, stride = start, [], 1
        kind: Shortcut = "projection"
        while node.op != "add":
            if conv := self.convolution(node):
                layer = self.layer(conv, node)
                layers.append(layer)
                stride *= conv.attributes["stride"]
                name = layer.output
            elif node.op == "subsample" and not layers:
                stride *= node.attributes["stride"]
                name = self.take(node)
            elif node.op == "avg_pool" and not layers:
                stride *= node.attributes["stride"]
                name, kind = self.take(node), "avg_projection"
            else:
                raise self.refused(node, "no residual unit has it here")
            following = self.only(name)
            if following is None:
                raise self.refused(self.nodes[name], f"{len(self.read_by(name))} nodes read it, inside of a unit")
            node = following
        return _Path(start, layers, stride, kind, node)

    def head(self, found: FoundNetwork, name: str) -> None:
        """From the last unit to the end."""
        node = self.only(name)
        if node and node.op in ("norm", "group_norm"):
            name, found.postnorm = self.norms(name)
            node = self.only(name)
            if node is None or node.op != "relu":
                raise self.refused(node, "no ReLU follows the last norm")
            node = self.only(self.take(node))
        if node and node.op == "mean":
            found.global_pool = True
            node = self.only(self.take(node))
        if node and node.op in ("dense", "conv"):
            if node.op == "conv" and node.weights["weights"].shape[0] != 1:
                raise self.refused(node, "it is the last convolution, and a classifier's is 1x1")
            name, affine = self.norms(self.take(node))
            found.classifier = Layer(node, (0, 0, 0, 0), affine, False, name)
            node = self.only(name)
            if affine.batch or affine.group:
                raise self.refused(node, "a norm follows the classifier")
            if node and node.op == "softmax":
                found.softmax = True
                node = self.only(self.take(node))
        if node:
            raise self.refused(node, "a ResNet ends before it")


@dataclass
class _Path:
    start: Node
    layers: list[Layer]
    stride: int
    kind: Shortcut
    sum: Node


def _rims(pool: Pool, sides: Sequence[int]) -> Padding:
    """Padding that a pool's windows need at a size."""
    rims = []
    for side in sides:
        out, before = pool.geometry(side)
        rims.append((before, max((out - 1) * pool.stride + pool.kernel - side - before, 0)))
    (top, bottom), (left, right) = rims
    return top, left, bottom, right


def scale_shift(node: Node) -> tuple[Array, Array]:
    gamma, beta, mean, variance = (
        node.weights[part].astype(np.float64) for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    with np.errstate(all="ignore"):  # a variance that cannot be is refused with the weights
        scale = gamma / np.sqrt(variance + node.attributes["epsilon"])
        return scale, beta - mean * scale


def product(nodes: Iterable[Node]) -> tuple[Array, Array] | None:
    """Norms one after another as one scale and shift."""
    found = None
    for node in nodes:
        scale, shift = scale_shift(node)
        found = (scale, shift) if found is None else (found[0] * scale, found[1] * scale + shift)
    return found
