"""ONNX files: a graph of operators and its constants, read as what they are and never run.

    ModelProto: ir_version, producer, opset_import, metadata_props, graph -> nodes, initializers, inputs, outputs

The messages are walked by the reader of protocol buffers that the TensorFlow formats use: constants are views of the
mapped file, and nothing is allocated that the file does not hold. (onnx/onnx: onnx/onnx.proto.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from resforward.checkpoints import protobuf
from resforward.checkpoints.arrays import BFLOAT16, Array, Contents, byte_size, frozen, name_of, view
from resforward.checkpoints.files import File, Folder
from resforward.errors import CheckpointError

NAME = "ONNX"
_MAX_NODES = 1 << 14  # an unoptimised export of a ResNet-152 has 10,000
_MAX_TENSORS = 1 << 14
_MAX_NAMES = 64  # inputs or outputs of one node
_MAX_RANK_INPUT = 8

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | Array
Side = int | str | None  # of a tensor that is not there yet: pixels, the name of what is free, or nothing said

_NUMPY: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    16: BFLOAT16,
}
_NOT_NUMBERS = {
    8: "string",
    14: "complex64",
    15: "complex128",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
}

# Fields that are read, by number: what they are called here, and their kind. Others are skipped.
_Kind = Literal["int", "ints", "float", "floats", "doubles", "text", "bytes"]
_Schema = Mapping[int, tuple[str, _Kind]]
_MODEL: _Schema = {
    1: ("ir_version", "int"),
    7: ("graph", "bytes"),
    8: ("opset", "bytes"),
    14: ("metadata", "bytes"),
    25: ("functions", "bytes"),
}
_GRAPH: _Schema = {
    1: ("nodes", "bytes"),
    5: ("tensors", "bytes"),
    11: ("inputs", "bytes"),
    12: ("outputs", "bytes"),
    15: ("sparse", "bytes"),
}
_NODE: _Schema = {
    1: ("inputs", "text"),
    2: ("outputs", "text"),
    3: ("name", "text"),
    4: ("op", "text"),
    5: ("attributes", "bytes"),
    7: ("domain", "text"),
}
_ATTRIBUTE: _Schema = {
    1: ("name", "text"),
    2: ("float", "float"),
    3: ("int", "int"),
    4: ("text", "bytes"),
    5: ("tensor", "bytes"),
    6: ("graph", "bytes"),
    7: ("floats", "floats"),
    8: ("ints", "ints"),
    9: ("texts", "bytes"),
    10: ("tensors", "bytes"),
    11: ("graphs", "bytes"),
    20: ("type", "int"),
    21: ("parameter", "text"),
    22: ("sparse", "bytes"),
    23: ("sparses", "bytes"),
}
_TENSOR: _Schema = {
    1: ("dims", "ints"),
    2: ("type", "int"),
    3: ("segment", "bytes"),
    4: ("floats", "floats"),
    5: ("int32s", "ints"),
    7: ("int64s", "ints"),
    8: ("name", "text"),
    9: ("raw", "bytes"),
    10: ("doubles", "doubles"),
    11: ("uint64s", "ints"),
    13: ("external", "bytes"),
    14: ("location", "int"),
}
_ENTRY: _Schema = {1: ("key", "text"), 2: ("value", "text")}
_OPSET: _Schema = {1: ("domain", "text"), 2: ("version", "int")}
_VALUE: _Schema = {1: ("name", "text"), 2: ("type", "bytes")}
_TYPE: _Schema = {1: ("tensor", "bytes")}
_TENSOR_TYPE: _Schema = {1: ("type", "int"), 2: ("shape", "bytes")}
_SHAPE: _Schema = {1: ("dims", "bytes")}
_DIM: _Schema = {1: ("value", "int"), 2: ("free", "text")}
_WIRES: Mapping[_Kind, int] = {
    "int": protobuf.VARINT,
    "float": protobuf.FIXED32,
    "text": protobuf.BYTES,
    "bytes": protobuf.BYTES,
}
# An attribute's type says which of its fields counts: onnx.proto, AttributeProto.AttributeType.
_ATTRIBUTE_TYPES = {1: "float", 2: "int", 3: "text", 4: "tensor", 6: "floats", 7: "ints", 8: "texts"}


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node as the file has it; an omitted input is an empty name.

    Args:
        op: of the standard operators; another set's is DOMAIN:OP.
        name: for messages; what it makes is called by `outputs`.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The nodes of a file in its order, which is one of computation.

    Args:
        inputs: that are no constants, with their shapes; None where the file does not say.
        outputs: names. opset: version of the standard operators.
    """

    nodes: tuple[OnnxNode, ...]
    inputs: Mapping[str, tuple[Side, ...] | None]
    outputs: tuple[str, ...]
    opset: int


def recognises(file: File) -> bool:
    """Tell whether a file begins as a ModelProto does: fields that it has, up to its graph."""
    known = {1: protobuf.VARINT, 5: protobuf.VARINT, 20: protobuf.BYTES, 25: protobuf.BYTES, 14: protobuf.BYTES}
    known |= dict.fromkeys((2, 3, 4, 6, 8), protobuf.BYTES)
    head, at = file.data[: 1 << 20], 0
    try:
        for _ in range(64):
            tag, at = protobuf.varint(head, at, file, "")
            if tag == 7 << 3 | protobuf.BYTES:
                return True
            if known.get(tag >> 3) != tag & 7:
                return False
            length, at = protobuf.varint(head, at, file, "")
            at += length if tag & 7 == protobuf.BYTES else 0
    except CheckpointError:  # too long, or cut short, before any graph
        return False
    return False


def read(folder: Folder, name: str) -> Contents:
    """Read an ONNX file; its graph comes with its constants.

    >>> read(DiskFolder(Path("models")), "resnet50.onnx").graph.nodes[0].op  # doctest: +SKIP
    'Conv'

    Raises:
        CheckpointError: the file is damaged, or has what no ResNet has: functions, control flow, sparse tensors; or
            its constants lie in other files and were not asked for, or lie outside of its folder.
    """
    file = folder.open(name)
    model = _read(file.data, _MODEL, file, "the model")
    if model["functions"]:
        raise CheckpointError(f"`{file.name}` has functions of its own, which are not read", help=_INLINE)
    graph = _read(_one(model["graph"], file, "the model's graph"), _GRAPH, file, "the graph")
    if graph["sparse"]:
        raise CheckpointError(f"`{file.name}` has sparse tensors, which are not read")
    for what, most in (("nodes", _MAX_NODES), ("tensors", _MAX_TENSORS), ("inputs", _MAX_TENSORS)):
        if len(graph[what]) > most:
            raise file.damaged(f"its graph has {len(graph[what])} {what}", f"at most {most} are read")
    contents = Contents({}, {}, _metadata(model["metadata"], file))
    for message in graph["tensors"]:
        tensor, array = _tensor(message, folder, file)
        if tensor in contents.tensors or tensor in contents.skipped:
            raise file.damaged(f"tensor `{tensor}` is there twice")
        if isinstance(array, str):
            contents.skipped[tensor] = array
        else:
            contents.tensors[tensor] = array
    inputs = dict(_value(message, file) for message in graph["inputs"])
    known = OnnxGraph(
        tuple(_node(message, folder, file) for message in graph["nodes"]),
        {value: shape for value, shape in inputs.items() if value not in contents.tensors},
        tuple(_value(message, file)[0] for message in graph["outputs"]),
        _opset(model["opset"], file),
    )
    return contents._replace(graph=known)


_INLINE = "inline them: `onnx.inliner.inline_local_functions`, or the exporter's own option"


def _read(message: memoryview, schema: _Schema, file: File, where: str) -> dict[str, list[Any]]:
    """The fields of a message that a schema names, each as the list of its values."""
    found: dict[str, list[Any]] = {name: [] for name, _ in schema.values()}
    for number, wire, value, data in protobuf.fields(message, file, where):
        if number not in schema:
            continue
        name, kind = schema[number]
        if kind == "ints":
            if wire == protobuf.VARINT:
                found[name].append(protobuf.signed(value))
            else:
                protobuf.expect(wire, protobuf.BYTES, number, file, where)
                found[name].extend(protobuf.packed_varints(data, file, where).tolist())
        elif kind in ("floats", "doubles"):
            single = protobuf.FIXED32 if kind == "floats" else protobuf.FIXED64
            if wire != single:
                protobuf.expect(wire, protobuf.BYTES, number, file, where)
            found[name].append(data)
        else:
            protobuf.expect(wire, _WIRES[kind], number, file, where)
            if kind == "int":
                found[name].append(protobuf.signed(value))
            elif kind == "float":
                found[name].append(float(np.frombuffer(data, "<f4")[0]))
            else:
                found[name].append(protobuf.text(data, file, where) if kind == "text" else data)
    return found


def _one(values: list[Any], file: File, what: str, default: Any = None) -> Any:
    """The value of a field that is there once at most."""
    if len(values) > 1:
        raise file.damaged(f"{what} is there {len(values)} times")
    if not values and default is None:
        raise file.damaged(f"{what} is missing")
    return values[0] if values else default


def _metadata(messages: list[memoryview], file: File) -> dict[str, str]:
    found = {}
    for message in messages:
        entry = _read(message, _ENTRY, file, "the metadata")
        found[_one(entry["key"], file, "a key of the metadata", "")] = _one(entry["value"], file, "its value", "")
    return found


def _opset(messages: list[memoryview], file: File) -> int:
    """The version of the standard operators; those of other sets are not understood anyway."""
    for message in messages:
        entry = _read(message, _OPSET, file, "the operator sets")
        if _one(entry["domain"], file, "an operator set's domain", "") in ("", "ai.onnx"):
            version: int = _one(entry["version"], file, "an operator set's version", 0)
            return version
    raise file.damaged("it names no version of ONNX's operators")


def _value(message: memoryview, file: File) -> tuple[str, tuple[Side, ...] | None]:
    """An input's or output's name, and its shape where it is a tensor that has one."""
    where = "an input or output"
    value = _read(message, _VALUE, file, where)
    name = _one(value["name"], file, f"the name of {where}")
    kind = _read(_one(value["type"], file, where, memoryview(b"")), _TYPE, file, where)
    tensor = _read(_one(kind["tensor"], file, where, memoryview(b"")), _TENSOR_TYPE, file, where)
    if not tensor["shape"]:
        return name, None
    dims = _read(_one(tensor["shape"], file, where), _SHAPE, file, where)["dims"]
    if len(dims) > _MAX_RANK_INPUT:
        raise file.damaged(f"`{name}` has {len(dims)} dimensions", f"at most {_MAX_RANK_INPUT} are read")
    sides = [_read(dim, _DIM, file, where) for dim in dims]
    return name, tuple(_one(side["value"] or side["free"] or [""], file, where) or None for side in sides)


def _node(message: memoryview, folder: Folder, file: File) -> OnnxNode:
    node = _read(message, _NODE, file, "a node")
    op, name = _one(node["op"], file, "a node's operator"), _one(node["name"], file, "a node's name", "")
    if max(len(node["inputs"]), len(node["outputs"]), len(node["attributes"])) > _MAX_NAMES:
        raise file.damaged(f"node `{name}` has more than {_MAX_NAMES} inputs, outputs or attributes")
    outputs = tuple(map(sys.intern, node["outputs"]))
    name = name or next(iter(outputs), "")
    attributes = dict(_attribute(attribute, f"node `{name}` ({op})", folder, file) for attribute in node["attributes"])
    domain = _one(node["domain"], file, "a node's domain", "")
    word = op if domain in ("", "ai.onnx") else f"{domain}:{op}"
    return OnnxNode(word, name, tuple(map(sys.intern, node["inputs"])), outputs, attributes)


def _attribute(message: memoryview, where: str, folder: Folder, file: File) -> tuple[str, Attribute]:
    attribute = _read(message, _ATTRIBUTE, file, where)
    if attribute["graph"] or attribute["graphs"]:
        raise CheckpointError(f"`{file.name}`: {where} is control flow, which is not read", help=_SIMPLIFY)
    if attribute["sparse"] or attribute["sparses"]:
        raise CheckpointError(f"`{file.name}`: {where} has a sparse tensor, which is not read")
    if attribute["parameter"]:
        raise CheckpointError(f"`{file.name}`: {where} refers to a function's parameter", help=_INLINE)
    name = _one(attribute["name"], file, f"the name of an attribute of {where}")
    told = _one(attribute["type"], file, f"the type of `{name}`", 0)
    kind = _ATTRIBUTE_TYPES.get(told) or next((k for k in _ATTRIBUTE_TYPES.values() if attribute[k]), None)
    if kind is None:
        raise CheckpointError(f"`{file.name}`: {where} has an attribute `{name}` of type {told}, which is not read")
    values = attribute[kind]
    if kind == "ints":
        return name, tuple(values)
    if kind == "floats":
        return name, tuple(_numbers(values, np.dtype("<f4"), file, where).tolist())
    if kind == "texts":
        return name, " ".join(protobuf.text(value, file, where) for value in values)
    value = _one(values, file, f"`{name}` of {where}", 0 if kind == "int" else 0.0 if kind == "float" else b"")
    if kind == "text":
        return name, protobuf.text(value, file, where)
    if kind == "tensor":
        _, array = _tensor(value, folder, file)
        if isinstance(array, str):
            raise CheckpointError(f"`{file.name}`: {where} holds a tensor of {array}, which is not read")
        return name, array
    number: int | float = value
    return name, number


_SIMPLIFY = "export the network for inference, without branches"


def _numbers(pieces: list[memoryview], dtype: np.dtype[Any], file: File, where: str) -> Array:
    """What a repeated field of fixed size holds, in however many pieces it was written."""
    if any(len(piece) % dtype.itemsize for piece in pieces):
        raise file.damaged(f"{where}: a list of numbers is cut off")
    if len(pieces) == 1:
        return np.frombuffer(pieces[0], dtype)
    file.budget.take_bytes(sum(map(len, pieces)), f"`{file.name}`: {where}")
    return np.frombuffer(b"".join(pieces), dtype)


def _tensor(message: memoryview, folder: Folder, file: File) -> tuple[str, Array | str]:
    """A tensor's name, and itself; the name of its type where that is none of numbers."""
    tensor = _read(message, _TENSOR, file, "a tensor")
    name = _one(tensor["name"], file, "a tensor's name", "")
    where = f"tensor `{name}`"
    if tensor["segment"]:
        raise CheckpointError(f"`{file.name}`: {where} is in segments, which are not read")
    number = _one(tensor["type"], file, f"the type of {where}", 0)
    if number in _NOT_NUMBERS:
        return name, _NOT_NUMBERS[number]
    if number not in _NUMPY:
        raise file.damaged(f"{where} has data type {number}, which ONNX does not define")
    shape, dtype = tuple(tensor["dims"]), _NUMPY[number]
    if _one(tensor["location"], file, f"the place of {where}", 0) == 1:
        return name, view(_external(tensor["external"], where, folder, file), shape, dtype, file, where)
    if tensor["raw"]:
        return name, view(_one(tensor["raw"], file, f"the bytes of {where}"), shape, dtype, file, where)
    wanted = byte_size(shape, dtype, file, where) // dtype.itemsize
    # Narrow types are written as int32, each value one: onnx.proto, TensorProto.
    field = {1: "floats", 7: "int64s", 11: "doubles", 12: "uint64s", 13: "uint64s"}.get(number, "int32s")
    if field in ("floats", "doubles"):
        values = _numbers(tensor[field], dtype, file, where)
    else:
        if any(not -(1 << 63) <= value < 1 << 63 for value in tensor[field]):
            raise file.damaged(f"{where} holds a number that does not fit")
        whole = np.array(tensor[field], np.int64)
        bits = {2: "<u2", 1: "u1"}.get(dtype.itemsize)  # of halves and bools: their bits
        with np.errstate(over="ignore"):
            values = whole.astype(bits).view(dtype) if bits and dtype.kind in "fVb" else whole.astype(dtype)
    if values.size != wanted:
        raise file.damaged(f"{where} has {values.size} values", f"shape {shape} of {name_of(dtype)} takes {wanted}")
    return name, frozen(values.reshape(shape))


def _external(messages: list[memoryview], where: str, folder: Folder, file: File) -> memoryview:
    """The bytes of a tensor that lie in another file, which must be in the model's folder or below."""
    told = _metadata(messages, file)
    location = told.get("location", "")
    if not folder.named_files:
        raise CheckpointError(
            f"`{file.name}`: the bytes of {where} are in another file, `{location}`",
            help="external_data=True, on the command line --external-data, reads it from the model's folder",
        )
    path = PurePosixPath(location)
    if not location or path.is_absolute() or ".." in path.parts or set(location) & set("\\:\0"):
        raise CheckpointError(f"`{file.name}`: the bytes of {where} are outside of its folder, in `{location}`")
    root = os.path.realpath(folder.name)
    if os.path.commonpath([root, os.path.realpath(os.path.join(root, location))]) != root:
        raise CheckpointError(f"`{file.name}`: `{location}`, with the bytes of {where}, is a link out of its folder")
    data = folder.open(location).data
    try:
        offset, length = int(told.get("offset", "0")), int(told.get("length", "-1"))
    except ValueError as error:
        raise file.damaged(f"{where} begins or ends at no number of `{location}`") from error
    length = len(data) - offset if length == -1 else length
    if offset < 0 or length < 0 or offset + length > len(data):
        raise file.damaged(
            f"{where} claims {length} bytes at byte {offset} of `{location}`", f"it has {len(data)} bytes"
        )
    return data[offset : offset + length]
