"""ONNX: fields of the messages changed, nodes rewired, constants written anew, and constants in a file beside it."""

from __future__ import annotations

import functools
import random
import struct
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from plain_networks import random_weights

from fuzzing.damage import INTERESTING, mutate_bytes, mutate_file, times
from fuzzing.models import mutate_model
from fuzzing.seeds import NETWORKS, Files, Format, Seed, Tensors
from fuzzing.tables import Tree, encode, mutate_tree, parse
from resforward.checkpoints.onnx import _NOT_NUMBERS, _NUMPY
from resforward.graph import plain_graph
from resforward.onnx_constants import CONSTANT_OPS
from resforward.onnx_file import onnx_bytes
from resforward.onnx_graph import _WHY
from resforward.onnx_operators import STEPS

_GRAPH = 7  # of a model
_NODE, _TENSOR, _INPUT, _OUTPUT = 1, 5, 11, 12  # of a graph
_TENSOR_SCHEMA: dict = {13: {}}
_ATTRIBUTE_SCHEMA: dict = {5: _TENSOR_SCHEMA}
_VALUE_SCHEMA: dict = {2: {1: {2: {1: {}}}}}
_SCHEMAS: dict[int, dict] = {_NODE: {5: _ATTRIBUTE_SCHEMA}, _TENSOR: _TENSOR_SCHEMA}
_SCHEMAS |= {_INPUT: _VALUE_SCHEMA, _OUTPUT: _VALUE_SCHEMA}
_OPS = sorted({*CONSTANT_OPS, *STEPS, *_WHY, "Loop", "Resize"})
_TYPES = [*_NUMPY, *_NOT_NUMBERS, 0, 99]
_BESIDE = "m.data"

# --- seeds -----------------------------------------------------------------------------------------------------------


@functools.cache
def _written(source: str) -> bytes:
    """What `convert` writes."""
    network = NETWORKS[source]
    return onnx_bytes(plain_graph(network, random_weights(network)))


@functools.cache
def _exported() -> bytes:
    """The same as exporters write it: images padded and turned, constants computed, sizes gathered."""
    model = onnx.load_from_string(_written("slim"))
    graph = model.graph
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Conv" and not nodes:
            graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 0, 0], np.int64), "pads"))
            nodes.append(helper.make_node("Transpose", ["turned"], [node.input[0]], perm=[0, 3, 1, 2]))
            nodes.append(helper.make_node("Pad", [node.input[0], "pads"], ["padded"]))
            node.input[0] = "padded"
            nodes += _computed(node, graph)
        if node.op_type == "GlobalAveragePool":
            node.op_type = "ReduceMean"
            node.attribute.extend([helper.make_attribute("axes", [2, 3])])
        if node.op_type == "Flatten":
            nodes += _gathered(node)
            node.op_type = "Reshape"
            del node.attribute[:]
            node.input.append("row")
        nodes.append(node)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("turned", TensorProto.FLOAT, ["N", 33, 33, 3]))
    del graph.node[:]
    graph.node.extend(nodes)
    data: bytes = model.SerializeToString()
    return data


def _computed(node: Any, graph: Any) -> list[Any]:
    """Kernels out of a constant, a cast and arithmetic."""
    name = node.input[1]
    stored = next(tensor for tensor in graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(stored)
    graph.initializer.remove(stored)
    flat = numpy_helper.from_array(array.ravel(), "flat")
    shape = numpy_helper.from_array(np.array(array.shape, np.int64), "shape")
    node.input[1] = "scaled"
    return [
        helper.make_node("Constant", [], ["flat"], value=flat),
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Cast", ["flat"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Reshape", ["double", "shape"], ["kernel"]),
        helper.make_node("Sqrt", ["two"], ["root"]),
        helper.make_node("Div", ["kernel", "root"], ["halved"]),
        helper.make_node("Mul", ["halved", "root"], ["whole"]),
        helper.make_node("ReduceMean", ["whole"], ["mean"], axes=[1, 2, 3]),
        helper.make_node("Sub", ["whole", "mean"], ["scaled"]),
    ]


def _gathered(node: Any) -> list[Any]:
    """A row's shape out of the shape of what is flattened."""
    constant = [("zero", np.array(0, np.int64)), ("axes", np.array([0], np.int64)), ("rest", np.array([-1], np.int64))]
    return [
        *(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in constant),
        helper.make_node("Shape", [node.input[0]], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["count"]),
        helper.make_node("Unsqueeze", ["count", "axes"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["row"], axis=0),
    ]


def _model(label: str, body: bytes) -> Seed:
    """A seed whose constants can be replaced."""
    proto = onnx.load_from_string(body)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    del proto.graph.initializer[:]
    bare = proto.SerializeToString()

    def write(changed: Tensors) -> Files:
        made = onnx.ModelProto.FromString(bare)
        made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in changed.items())
        return {"m": made.SerializeToString()}

    return Seed(label, {"m": body}, "m", tensors, write)


def _external() -> Seed:
    """Constants in a file beside it."""
    proto = onnx.load_from_string(_written("torch"))
    data = b""
    for tensor in proto.graph.initializer:
        raw, tensor.data_location = tensor.raw_data, TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        for key, value in (("location", _BESIDE), ("offset", str(len(data))), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
        data += raw
    files = {"m": proto.SerializeToString(), _BESIDE: data}
    return Seed("onnx, constants beside it", files, options={"external_data": True})


def _seeds() -> list[Seed]:
    return [
        _model("onnx, slim", _written("slim")),
        _model("onnx, timm", _written("timm")),
        _model("onnx, exported", _exported()),
        _external(),
    ]


# --- mutations -------------------------------------------------------------------------------------------------------


@functools.cache
def _apart(body: bytes) -> tuple[tuple[tuple, ...], tuple[tuple, ...]]:
    """Fields of the model but its graph, and fields of its graph, each as [number, wire type, bytes or number]."""
    model = parse(body, {})
    graph = next(value for number, _, value in model if number == _GRAPH)
    return tuple(tuple(f) for f in model if f[0] != _GRAPH), tuple(tuple(field) for field in parse(graph, {}))


def _together(model: Tree, graph: Tree) -> bytes:
    return encode([*model, [_GRAPH, 2, encode(graph)]])


@functools.cache
def _names(body: bytes) -> tuple[bytes, ...]:
    """What the graph's tensors are called."""
    found = {value for n, _, node in _apart(body)[1] if n == _NODE for f, _, value in parse(node, {}) if f in (1, 2)}
    return tuple(sorted(found))


def mutate_messages(seed: Seed, rng: random.Random) -> Files:
    """Change fields of nodes, constants, inputs and outputs, or their order."""
    model, graph = ([list(field) for field in part] for part in _apart(seed.body))
    names = _names(seed.body)
    for _ in times(rng):
        _change(model if rng.random() < 0.05 else graph, names, rng)
    return {**seed.files, "m": _together(model, graph)}


def _change(fields: Tree, names: tuple[bytes, ...], rng: random.Random) -> None:
    at = rng.randrange(len(fields)) if fields else 0
    kind = rng.randrange(12)
    if not fields or kind == 0:
        value = rng.choice([7, b"", b"\x0a\0", b"x" * 9])
        fields.insert(at, [rng.randint(1, 25), 0 if isinstance(value, int) else 2, value])
    elif kind == 1:
        del fields[at]
    elif kind == 2:
        fields[at:at] = [list(fields[at]) for _ in range(rng.choice([1, 2, 100]))]
    elif kind == 3:
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif isinstance(fields[at][2], bytes):
        try:
            tree = parse(fields[at][2], _SCHEMAS.get(fields[at][0], {}))
        except (ValueError, IndexError):  # an earlier mutation broke this one
            return
        if fields[at][0] == _NODE and kind < 9:
            _change_node(tree, names, rng)
        elif fields[at][0] == _TENSOR and kind < 9:
            _change_tensor(tree, rng)
        else:
            mutate_tree(tree, rng)
        fields[at][2] = encode(tree)
    else:
        fields[at][2] = rng.choice(INTERESTING)


def _change_node(tree: Tree, names: tuple[bytes, ...], rng: random.Random) -> None:
    """Another operator, another tensor, or another value of an attribute."""
    attributes = [field[2] for field in tree if field[0] == 5 and isinstance(field[2], list)]
    numbers = [each for attribute in attributes for each in attribute if isinstance(each[2], int) and each[0] != 20]
    named = [field for field in tree if field[0] in (1, 2)]
    kind = rng.randrange(5)
    if kind == 0:
        for field in tree:
            if field[0] == 4:
                field[2] = rng.choice(_OPS).encode()
    elif kind == 1 and named:
        rng.choice(named)[2] = rng.choice([*names, b""])
    elif kind == 2:
        tree.insert(0, [rng.choice([1, 2]), 2, rng.choice(names)])
    elif numbers:
        number = rng.choice(numbers)
        number[2] = rng.choice([*INTERESTING, *range(6), number[2] + 1, number[2] - 1, -1])
    else:
        mutate_tree(tree, rng)


def _change_tensor(tree: Tree, rng: random.Random) -> None:
    """Another shape or type, with as many bytes as these take where there are not too many, or other values."""
    dims = [field for field in tree if field[0] == 1]
    kind = rng.randrange(6)
    if kind == 0:
        for field in tree:
            if field[0] == 2:
                field[2] = rng.choice(_TYPES)
    elif kind == 1 and dims:
        rng.choice(dims)[2] = rng.choice([*INTERESTING, *range(5)])
    elif kind == 2:
        tree.insert(0, [1, 0, rng.choice([0, 1, 2, 1 << 40])])
    elif kind == 3 and dims:
        tree.remove(rng.choice(dims))
    elif kind == 4:  # in a list of numbers, not in bytes
        for field in tree:
            if field[0] == 9 and isinstance(field[2], bytes):
                field[0] = rng.choice([4, 5, 7, 10, 11])
    else:
        for field in tree:
            if isinstance(field[2], bytes) and field[0] == 9 and len(field[2]) > 3:
                value = struct.pack("<f", rng.choice([np.nan, np.inf, 0.0, -1.0, 3e38, 1e-45]))
                at = 4 * rng.randrange(len(field[2]) // 4)
                field[2] = field[2][:at] + value + field[2][at + 4 :]
    size = 1
    for field in tree:
        size *= field[2] if field[0] == 1 and isinstance(field[2], int) else 1
    if 0 <= size < 1 << 12 and rng.random() < 0.5:
        for field in tree:
            if field[0] == 9 and isinstance(field[2], bytes):
                field[2] = (field[2] + bytes(4 * size))[: 4 * size]


def mutate_external(seed: Seed, rng: random.Random) -> Files:
    """Change where constants are said to lie."""
    if _BESIDE not in seed.files:
        return mutate_messages(seed, rng)
    model, graph = ([list(field) for field in part] for part in _apart(seed.body))
    for _ in times(rng):
        chosen = rng.choice([field for field in graph if field[0] == _TENSOR])
        tree = parse(chosen[2], _TENSOR_SCHEMA)
        entry = rng.choice([field[2] for field in tree if field[0] == 13])
        said = rng.choice([*INTERESTING, -1, 4, " 8", "1e3", "", "٣", "9" * 5000, "0x10"])
        value = str(said).encode()
        if entry[0][2] == b"location":
            value = rng.choice([b"../m", b"m", b"/etc/passwd", b".", b"", b"m.data/", b"./m.data", b"\0", b"a\\b"])
        if rng.random() < 0.2:
            value = mutate_bytes(entry[-1][2], rng)
        entry[-1][2] = value
        chosen[2] = encode(tree)
    return {**seed.files, "m": _together(model, graph)}


def mutate_constants(seed: Seed, rng: random.Random) -> Files:
    """Change a model's constants where they are its own."""
    return (mutate_model if seed.write else mutate_external)(seed, rng)


ONNX = Format(
    _seeds, (mutate_file, mutate_messages, mutate_messages, mutate_messages, mutate_external, mutate_constants)
)
