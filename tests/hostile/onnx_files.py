"""ONNX files: constants in files of others, shapes beyond memory, control flow, arithmetic without end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tf_writer as w
from fuzzing.seeds import NETWORKS
from onnx import TensorProto, helper, numpy_helper
from plain_networks import random_weights

from hostile.rows import Files, Hostile, one
from resforward.graph import plain_graph
from resforward.onnx_file import onnx_bytes

_HUGE = 1 << 62
_WEIGHTS = "conv1/weights"
_FLOAT = TensorProto.FLOAT


@functools.cache
def _valid() -> bytes:
    network = NETWORKS["torch"]
    return onnx_bytes(plain_graph(network, random_weights(network)))


def _changed(change: Callable[[Any], object]) -> bytes:
    model = onnx.load_from_string(_valid())
    change(model)
    return model.SerializeToString()


def _edited(reason: str | None, change: Callable[[Any], object]) -> Hostile:
    """A valid file, something in which is changed."""
    return one(reason, lambda: _changed(change))


def _tensor(model: Any) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == _WEIGHTS)


def _shaped(reason: str, *dims: int, raw: bytes | None = None) -> Hostile:
    """The kernel of the root block, said to have another shape."""

    def change(model: Any) -> None:
        tensor = _tensor(model)
        tensor.dims[:] = dims
        if raw is not None:
            tensor.raw_data = raw

    return _edited(reason, change)


def _typed(reason: str, kind: int) -> Hostile:
    return _edited(reason, lambda model: setattr(_tensor(model), "data_type", kind))


# --- constants in other files ----------------------------------------------------------------------------------------


def _external(
    reason: str, location: str = "m.data", asked: bool = True, links: dict[str, str] | None = None, **numbers: str
) -> Hostile:
    """The kernel of the root block lies in another file; `asked`: its reader is told to look there."""

    def make() -> Files:
        def change(model: Any) -> None:
            tensor = _tensor(model)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
            for key, value in {"location": location, **numbers}.items():
                tensor.external_data.add(key=key, value=value)

        return {"m": _changed(change)} | ({} if links else {"m.data": bytes(400)})

    return Hostile(reason, make, links=links or {}, options={"external_data": asked})


_OUTSIDE = "are outside of its folder, in"

PLACES: dict[str, Hostile] = {
    "onnx: external data, unasked": _external("are in another file, `m.data`", asked=False),
    "onnx: external data outside, unasked": _external("are in another file, `/etc/passwd`", "/etc/passwd", asked=False),
    **{
        f"onnx: external data in {location!r}": _external(_OUTSIDE, location)
        for location in (
            *("../outside/secret", "a/../../outside/secret", "/etc/passwd", "..", "", "..\\outside\\secret"),
            *("C:\\secret", "m.data\0/../../outside/secret", "file:///etc/passwd", "./../outside/secret"),
        )
    },
    "onnx: external data by a link out": _external(
        "is a link out of its folder", links={"m.data": "../outside/secret"}
    ),
    "onnx: external data by a link to an absolute path": _external(
        "is a link out of its folder", links={"m.data": "/etc/passwd"}
    ),
    "onnx: external data in a linked folder": _external(
        "is a link out of its folder", "here/secret", links={"here": "../outside"}
    ),
    "onnx: external data by a link to itself": _external("cannot read", links={"m.data": "m.data"}),
    "onnx: external data in its folder itself": _external("are outside of its folder", "."),
    "onnx: external data that is not there": _external("no checkpoint", "n.data"),
    "onnx: external data at 2^62": _external("claims", offset=str(_HUGE)),
    "onnx: external data at -8": _external("begins or ends at no number", offset="-8"),
    "onnx: external data of 2^62 bytes": _external("claims", length=str(_HUGE)),
    "onnx: external data of -8 bytes": _external("begins or ends at no number", length="-8"),
    "onnx: external data at no number": _external("begins or ends at no number", offset="0x10"),
    "onnx: external data at a number of 5,000 digits": _external("begins or ends at no number", offset="9" * 5000),
    "onnx: external data of another size": _external("has 400 bytes"),
}

# --- constants that lie ----------------------------------------------------------------------------------------------


def _repeated(model: Any) -> None:
    model.graph.initializer.append(_tensor(model))


def _sparse(model: Any) -> None:
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.array([_HUGE]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [_HUGE + 1]))


def _segment(model: Any) -> None:
    _tensor(model).segment.begin, _tensor(model).segment.end = 0, _HUGE


CONSTANTS: dict[str, Hostile] = {
    "onnx: 2^62 elements": _shaped("has an impossible shape", _HUGE),
    "onnx: 2^32 x 2^32 elements": _shaped("has an impossible shape", 1 << 32, 1 << 32),
    "onnx: 2^32 x 2^32 elements over 0 bytes": _shaped("has an impossible shape", 1 << 32, 1 << 32, raw=b""),
    "onnx: 2^62 x 0 elements": _shaped("has an impossible shape", _HUGE, 0, raw=b""),
    "onnx: 2^40 elements": _shaped("shape (1099511627776,)", 1 << 40),
    "onnx: shape of -1": _shaped("has a negative dimension", -1, -2, 3, 49),
    "onnx: 100 dimensions": _shaped("has 100 dimensions", *[1] * 100),
    "onnx: bytes of another shape": _shaped("shape (2, 3, 7, 7) of float32 takes 1176", 2, 3, 7, 7, raw=bytes(1175)),
    "onnx: no bytes": _edited("has 0 values", lambda model: _tensor(model).ClearField("raw_data")),
    "onnx: strings": _typed("neither a constant nor made before it", TensorProto.STRING),
    "onnx: type 99": _typed("has data type 99, which ONNX does not define", 99),
    "onnx: complex numbers": _typed("neither a constant nor made before it", TensorProto.COMPLEX64),
    "onnx: whole numbers for weights": _typed("weights are floats", TensorProto.INT32),
    "onnx: a constant there twice": _edited("is there twice", _repeated),
    "onnx: sparse tensor": _edited("has sparse tensors, which are not read", _sparse),
    "onnx: segments": _edited("is in segments, which are not read", _segment),
    "onnx: 20,000 constants": _edited(
        "at most 16384 are read", lambda model: [_constant(model, f"c{i}", 0) for i in range(20_000)]
    ),
}


def _constant(model: Any, name: str, *values: int) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


# --- graphs ----------------------------------------------------------------------------------------------------------


def _first(model: Any, op: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == op)


def _attribute(op: str, name: str, value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = _first(model, op)
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _branch(op: str, name: str = "then_branch") -> Callable[[Any], None]:
    """A node with a graph of its own in front of all others."""

    def change(model: Any) -> None:
        value = helper.make_tensor_value_info("x", _FLOAT, [])
        inner = helper.make_graph([], "inner", [], [value])
        model.graph.node.insert(0, helper.make_node(op, ["images"], ["x"], **{name: inner}))
        _first(model, "Conv").input.append("x")

    return change


def _nested() -> bytes:
    """A graph in a node in a graph, 20,000 deep: 10 bytes a level that nobody may walk down."""
    inner = b""
    for _ in range(20_000):
        attribute = w.message((1, b"b"), (6, inner), (20, 5))
        inner = w.message((1, w.message((4, b"If"), (5, attribute), (2, b"x"))))
    return w.message((1, 8), (7, inner), (8, w.message((2, 17))))


def _made(
    op: str, *inputs: str, values: dict[str, list[int]] | None = None, **attributes: Any
) -> Callable[[Any], None]:
    """A constant that is computed, as the biases of the first convolution."""

    def change(model: Any) -> None:
        for name, numbers in (values or {}).items():
            _constant(model, name, *numbers)
        model.graph.node.insert(0, helper.make_node(op, inputs, ["made"], **attributes))
        _first(model, "Conv").input.append("made")

    return change


def _doubled(model: Any) -> None:
    """Sixty-four times the one before beside itself."""
    model.graph.node.insert(0, helper.make_node("Constant", [], ["d0"], value_floats=[1.0] * 64))
    for i in range(64):
        model.graph.node.insert(i + 1, helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=0))
    _first(model, "Conv").input.append("d64")


def _without_end(model: Any) -> None:
    """Ten thousand sums over a megabyte."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1 << 18, np.float32), "s0"))
    nodes = [helper.make_node("Neg", [f"s{i}"], [f"s{i + 1}"]) for i in range(10_000)]
    nodes += list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _first(model, "Conv").input.append("s10000")


def _circle(model: Any) -> None:
    _first(model, "Add").input[0] = model.graph.node[-1].output[0]


def _function(model: Any) -> None:
    model.functions.append(helper.make_function("d", "F", ["x"], ["x"], [], [helper.make_opsetid("", 17)]))


def _recursive(model: Any) -> None:
    node = helper.make_node("F", ["x"], ["y"], domain="d")
    model.functions.append(helper.make_function("d", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


def _told(**metadata: str) -> Callable[[Any], None]:
    return lambda model: helper.set_model_props(model, {"writer": "resforward", "network": "n"} | metadata)


_NO_RESNET = "is no ResNet that is known here: it stops being one at node"

GRAPHS: dict[str, Hostile] = {
    "onnx: function": _edited("has functions of its own, which are not read", _function),
    "onnx: function that calls itself": _edited("has functions of its own", _recursive),
    "onnx: If": _edited("is control flow, which is not read", _branch("If")),
    "onnx: Loop": _edited("is control flow, which is not read", _branch("Loop", "body")),
    "onnx: Scan": _edited("is control flow, which is not read", _branch("Scan", "body")),
    "onnx: 20,000 graphs in one another": one("is control flow, which is not read", _nested),
    "onnx: graph that reads its own result": _edited("neither a constant nor made before it", _circle),
    "onnx: 20,000 nodes": _edited(
        "at most 16384 are read",
        lambda model: model.graph.node.extend([helper.make_node("Relu", ["x"], ["x"])] * 20_000),
    ),
    "onnx: 100 inputs": _edited(
        "more than 64 inputs, outputs or attributes", lambda model: _first(model, "Relu").input.extend(["x"] * 100)
    ),
    "onnx: no graph": _edited("an ONNX file cut short", lambda model: model.ClearField("graph")),
    "onnx: two graphs": one("the model's graph is there 2 times", lambda: _valid() + w.message((7, b""))),
    "onnx: no inputs": _edited("has 0 inputs", lambda model: model.graph.ClearField("input")),
    "onnx: no outputs": _edited("is no ResNet", lambda model: model.graph.ClearField("output")),
    "onnx: operator of any domain": _edited("os:Relu", lambda model: setattr(_first(model, "Relu"), "domain", "os")),
    "onnx: field of 2^63 bytes": one("claims", lambda: b"\x08\x08\x3a" + w.varint(1 << 63) + b"x"),
    "onnx: stride of 2^62": _edited(_NO_RESNET, _attribute("Conv", "strides", [_HUGE, _HUGE])),
    "onnx: stride of 0": _edited(_NO_RESNET, _attribute("Conv", "strides", [0, 0])),
    "onnx: stride of -1": _edited(_NO_RESNET, _attribute("MaxPool", "strides", [-1, -1])),
    "onnx: pool of 0": _edited(_NO_RESNET, _attribute("MaxPool", "kernel_shape", [0, 0])),
    "onnx: pool of 2^62": _edited(_NO_RESNET, _attribute("MaxPool", "kernel_shape", [_HUGE, _HUGE])),
    "onnx: pool of 2^14": _edited("is no", _attribute("MaxPool", "kernel_shape", [1 << 14, 1 << 14])),
    "onnx: padding of -1": _edited(_NO_RESNET, _attribute("Conv", "pads", [-1, -1, -1, -1])),
    "onnx: padding of 2^62": _edited("is no", _attribute("Conv", "pads", [_HUGE] * 4)),
    "onnx: dilation of 2^62": _edited(_NO_RESNET, _attribute("Conv", "dilations", [_HUGE, _HUGE])),
    "onnx: 2^62 groups": _edited(_NO_RESNET, _attribute("Conv", "group", _HUGE)),
    "onnx: epsilon of NaN": _edited(
        "values that cannot be computed with", _attribute("BatchNormalization", "epsilon", float("nan"))
    ),
    "onnx: ConstantOfShape of 2^40": _edited(
        "has an impossible shape", _made("ConstantOfShape", "sides", values={"sides": [1 << 40]})
    ),
    "onnx: ConstantOfShape of -1": _edited(
        "has an impossible shape", _made("ConstantOfShape", "sides", values={"sides": [-1]})
    ),
    "onnx: Expand to 2^40": _edited(
        "has an impossible shape", _made("Expand", "a", "b", values={"a": [1], "b": [1 << 40]})
    ),
    "onnx: Range to 2^62": _edited(
        "cannot be computed", _made("Range", "a", "b", "c", values={"a": [0], "b": [_HUGE], "c": [1]})
    ),
    "onnx: Range to 2^34": _edited(
        "has an impossible shape", _made("Range", "a", "b", "c", values={"a": [0], "b": [1 << 34], "c": [1]})
    ),
    "onnx: Range in steps of 0": _edited(
        "cannot be computed", _made("Range", "a", "b", "c", values={"a": [0], "b": [1], "c": [0]})
    ),
    "onnx: Gather far outside": _edited(
        "cannot be computed", _made("Gather", "a", "b", values={"a": [1], "b": [_HUGE]})
    ),
    "onnx: Transpose by -9": _edited("cannot be computed", _made("Transpose", _WEIGHTS, perm=[-9, 0, 1, 2])),
    "onnx: 64 times twice as much": _edited("has an impossible shape", _doubled),
    "onnx: 10,000 sums over a megabyte": _edited("more is made of its constants than any export", _without_end),
    "onnx: labels that are no list": _edited("its metadata is not what resforward writes", _told(labels="7")),
    "onnx: labels 10,000 deep": _edited("its metadata is not what resforward writes", _told(labels="[" * 10_000)),
    "onnx: two labels for three classes": _edited("says 2 labels for 3 classes", _told(labels='["a", "b"]')),
    "onnx: preprocessing of another kind": _edited(
        "its metadata is not what resforward writes", _told(preprocess='{"size": [1, 1]}')
    ),
}

ONNX = PLACES | CONSTANTS | GRAPHS
