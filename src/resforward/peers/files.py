"""A network as the files that peers read: ONNX, ncnn's param and bin, and a table with its arrays.

ncnn's file is what its own converter and optimiser would write: batch norm folded into the convolution before it and
ReLU made its activation where nothing else reads between them. The others get the plain graph; they fuse by themselves.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fold import fold_norm
from ..graph import INPUT, Graph, Node
from ..model import Model

Array = npt.NDArray[np.float32]


def write_pickle(model: Model, graph: Graph, folder: Path) -> None:
    """`model.pickle`: the model itself, for this package in another process."""
    (folder / "model.pickle").write_bytes(pickle.dumps(model))


def write_onnx(model: Model, graph: Graph, folder: Path) -> None:
    """`model.onnx`."""
    from ..onnx_file import onnx_bytes  # needs the onnx package

    (folder / "model.onnx").write_bytes(onnx_bytes(graph))


def write_table(model: Model, graph: Graph, folder: Path) -> None:
    """`model.npz`: the weights under slim's names, and `graph`, a table in JSON whose nodes name theirs."""
    nodes = [
        {
            "op": node.op,
            "name": node.name,
            "inputs": node.inputs,
            "scope": node.scope,
            "weights": list(node.weights),
            "attributes": dict(node.attributes),
        }
        for node in graph.nodes
    ]
    arrays = {f"{node.scope}/{part}": array for node in graph.nodes for part, array in node.weights.items()}
    table = np.array(json.dumps({"name": graph.name, "nodes": nodes}))
    np.savez(folder / "model.npz", allow_pickle=False, graph=table, **arrays)


def write_ncnn(model: Model, graph: Graph, folder: Path) -> None:
    """`model.param` and `model.bin`: `images` in, `output` out."""
    param, weights = ncnn_files(graph)
    (folder / "model.param").write_text(param)
    (folder / "model.bin").write_bytes(weights)


WRITERS: dict[str, Callable[[Model, Graph, Path], None]] = {
    "pickle": write_pickle,
    "onnx": write_onnx,
    "table": write_table,
    "ncnn": write_ncnn,
}


@dataclasses.dataclass
class _Layer:
    """A line of ncnn's param file, and its weights as they lie in the bin file."""

    type: str
    inputs: list[str]
    outputs: list[str]
    options: dict[int, float]
    weights: tuple[bytes, ...] = ()

    def line(self, number: int) -> str:
        """As the param file has it, named after its place there."""
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        options = [
            f"{key}={value:e}" if isinstance(value, float) else f"{key}={value}" for key, value in self.options.items()
        ]
        return " ".join([self.type, f"layer{number}", counts, *self.inputs, *self.outputs, *options])


def ncnn_files(graph: Graph) -> tuple[str, bytes]:
    """The text of ncnn's param file and the bytes of its bin file.

    >>> from resforward.graph import plain_graph
    >>> text, weights = ncnn_files(plain_graph(NETWORKS["fashion"], build("fashion").weights, size=(28, 28)))
    >>> text.splitlines()[3]
    'Convolution layer1 1 1 images conv1 0=32 1=3 2=1 3=1 14=1 4=1 16=1 15=1 5=1 6=288 9=1'

    Args:
        graph: of `plain_graph`, with a size.
    """
    layers = [_Layer("Input", [], [INPUT], {})]
    for node in _fused(graph):
        layers.append(_LAYERS[node.op](node))
    layers[-1].outputs = ["output"]
    layers = _split(layers)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = ["7767517", f"{len(layers)} {blobs}", *(layer.line(number) for number, layer in enumerate(layers))]
    return "\n".join(lines) + "\n", b"".join(part for layer in layers for part in layer.weights)


def _fused(graph: Graph) -> list[Node]:
    """The nodes with batch norm and ReLU in the convolution before them where nothing else reads what is between."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    nodes: list[Node] = []
    names: dict[str, str] = {}  # of a tensor, the node that now makes it
    made: dict[str, int] = {}  # its place among `nodes`
    for node in graph.nodes:
        inputs = tuple(names.get(name, name) for name in node.inputs)
        if node.op in ("identity", "flatten"):  # ncnn's global mean is flat already
            names[node.name] = inputs[0]
            continue
        place = made.get(inputs[0], 0)
        before = nodes[place] if inputs[0] in made and readers[node.inputs[0]] == 1 else None
        if before and before.op == "conv" and not before.attributes.get("relu") and node.op in ("norm", "relu"):
            nodes[place] = _with_norm(before, node) if node.op == "norm" else _with_relu(before)
            names[node.name] = before.name
            continue
        made[node.name] = len(nodes)
        nodes.append(dataclasses.replace(node, inputs=inputs))
    return nodes


def _with_relu(conv: Node) -> Node:
    return dataclasses.replace(conv, attributes={**conv.attributes, "relu": True})


def _with_norm(conv: Node, norm: Node) -> Node:
    scale, shift = fold_norm(
        {f"norm/{part}": array for part, array in norm.weights.items()}, "norm", norm.attributes["epsilon"]
    )
    biases = conv.weights.get("biases", np.zeros(1, np.float32)) * scale + shift
    folded = {"weights": (conv.weights["weights"] * scale).astype(np.float32), "biases": biases.astype(np.float32)}
    return dataclasses.replace(conv, weights=folded)


def _bytes(array: npt.NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()


_FLOAT32 = bytes(4)  # before weights that could be stored otherwise


def _conv(node: Node) -> _Layer:
    kernel, given = node.weights["weights"], node.attributes
    top, left, bottom, right = given["padding"]
    options: dict[int, float] = {
        0: kernel.shape[3],
        1: kernel.shape[0],
        2: given["dilation"],
        3: given["stride"],
        14: top,
        4: left,
        16: bottom,
        15: right,
        5: int("biases" in node.weights),
        6: kernel.size,
        9: int(given.get("relu", False)),
    }
    weights = (_FLOAT32, _bytes(kernel.transpose(3, 2, 0, 1)), _bytes(node.weights.get("biases", np.empty(0))))
    return _Layer("Convolution", list(node.inputs), [node.name], options, weights)


def _norm(node: Node) -> _Layer:
    order = ("gamma", "moving_mean", "moving_variance", "beta")
    weights = tuple(_bytes(node.weights[part]) for part in order)
    options = {0: len(node.weights["gamma"]), 1: float(node.attributes["epsilon"])}
    return _Layer("BatchNorm", list(node.inputs), [node.name], options, weights)


def _pool(node: Node) -> _Layer:
    """A max-pool whose padding is spelt out, or the single pixels of a shortcut: 5=1 leaves the rest away."""
    top, left, bottom, right = node.attributes.get("padding", (0, 0, 0, 0))
    options = {0: 0, 1: node.attributes.get("kernel", 1), 2: node.attributes["stride"]}
    return _Layer("Pooling", list(node.inputs), [node.name], options | {13: top, 3: left, 15: bottom, 14: right, 5: 1})


def _avg_pool(node: Node) -> _Layer:
    """Windows that may lie half outside, 5=0, of which only what is inside counts, 6=0."""
    options = {0: 1, 1: node.attributes["kernel"], 2: node.attributes["stride"], 5: 0, 6: 0}
    return _Layer("Pooling", list(node.inputs), [node.name], options)


def _group_norm(node: Node) -> _Layer:
    gamma, beta = node.weights["gamma"], node.weights["beta"]
    options = {0: node.attributes["groups"], 1: len(gamma), 2: float(node.attributes["epsilon"])}
    return _Layer("GroupNorm", list(node.inputs), [node.name], options, (_bytes(gamma), _bytes(beta)))


def _pad(node: Node) -> _Layer:
    top, left, bottom, right = node.attributes["padding"]
    return _Layer("Padding", list(node.inputs), [node.name], {0: top, 1: bottom, 2: left, 3: right})


def _dense(node: Node) -> _Layer:
    kernel = node.weights["weights"]
    options = {0: kernel.shape[1], 1: 1, 2: kernel.size}
    return _Layer(
        "InnerProduct",
        list(node.inputs),
        [node.name],
        options,
        (_FLOAT32, _bytes(kernel.T), _bytes(node.weights["biases"])),
    )


def _plain(type: str, options: Mapping[int, float]) -> Callable[[Node], _Layer]:
    return lambda node: _Layer(type, list(node.inputs), [node.name], dict(options))


_LAYERS: dict[str, Callable[[Node], _Layer]] = {
    "conv": _conv,
    "norm": _norm,
    "relu": _plain("ReLU", {}),
    "add": _plain("BinaryOp", {0: 0}),
    "pad": _pad,
    "group_norm": _group_norm,
    "max_pool": _pool,
    "avg_pool": _avg_pool,
    "subsample": _pool,
    "mean": _plain("Pooling", {0: 1, 4: 1}),
    "dense": _dense,
}


def _split(layers: list[_Layer]) -> list[_Layer]:
    """The layers with a Split behind every tensor that several read, as ncnn wants it."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    result: list[_Layer] = []
    copies: dict[str, list[str]] = {}  # not taken yet
    for layer in layers:
        layer.inputs = [copies[name].pop(0) if name in copies else name for name in layer.inputs]
        result.append(layer)
        for name in layer.outputs:
            if readers[name] > 1:
                outputs = [f"{name}/copy{number}" for number in range(readers[name])]
                copies[name] = list(outputs)
                result.append(_Layer("Split", [name], outputs, {}))
    return result
