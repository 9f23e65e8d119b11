"""A plain graph as an ONNX file: `images` (N, C, H, W) in, the graph's outputs out. Needs the `onnx` package.

Logits are (N, classes) after a global pool, else (N, classes, height, width), and so are predictions; every other
tensor is (N, depth, height, width). Tensors and weights keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, numpy_helper

from . import __version__
from .errors import ResforwardError
from .graph import INPUT, Graph, Node

# Versions of the operators and of the format that came with them: the oldest that every network needs, and the first
# that has a group norm with a scale for each channel.
OPSET, _IR_VERSION = 17, 8
_GROUP_NORM_OPSET, _GROUP_NORM_IR_VERSION = 21, 10
_MOST_BYTES = (1 << 31) - 1  # of a protobuf message


def onnx_bytes(graph: Graph, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of an ONNX file that onnx's checker has passed.

    >>> from resforward.graph import plain_graph
    >>> model = onnx.load_from_string(onnx_bytes(plain_graph(NETWORKS["fashion"], build("fashion").weights)))
    >>> [output.name for output in model.graph.output]
    ['logits']

    Args:
        graph: of `plain_graph`.
        metadata: the file's metadata_props.

    Raises:
        ResforwardError: more than 2 GiB, which no such file can hold.
    """
    weights = sum(array.nbytes for node in graph.nodes for array in node.weights.values())
    if weights > _MOST_BYTES:  # before they are copied
        raise _too_large(graph.name, weights)
    nodes, initializers = [], []
    for node in graph.nodes:
        operator, constants, attributes = _spell(node)
        nodes.append(helper.make_node(operator, [*node.inputs, *constants], [node.name], name=node.name, **attributes))
        initializers += [
            numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()
        ]
    shapes = {node.name: node.shape for node in graph.nodes}
    height, width, channels = graph.shape
    grouped = any(node.op == "group_norm" for node in graph.nodes)
    opset, ir_version = (_GROUP_NORM_OPSET, _GROUP_NORM_IR_VERSION) if grouped else (OPSET, _IR_VERSION)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            graph.name,
            [_value(INPUT, (height or "H", width or "W", channels))],
            [_value(name, shapes[name]) for name in graph.outputs],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
        producer_name="resforward",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(metadata or {}))
    try:
        data: bytes = model.SerializeToString()
    except (EncodeError, ValueError) as error:  # what surrounds the weights was too much; which, depends on protobuf
        raise _too_large(graph.name, weights) from error
    if len(data) > _MOST_BYTES:
        raise _too_large(graph.name, weights)
    onnx.checker.check_model(data, full_check=True)
    return data


def _too_large(name: str, weights: int) -> ResforwardError:
    return ResforwardError(
        f"{name} does not fit into an ONNX file, which holds less than 2 GiB",
        found=[f"its weights alone are {weights / (1 << 30):.1f} GiB"],
    )


def _value(name: str, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    *size, depth = shape
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", depth, *size])


def _spell(node: Node) -> tuple[str, dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """ONNX's operator for an operation, its constant inputs by name, and its attributes."""
    given = node.attributes
    weights = {f"{node.scope}/{part}": array for part, array in node.weights.items()}
    match node.op:
        case "conv":
            kernel = node.weights["weights"].transpose(3, 2, 0, 1)
            return (
                "Conv",
                weights | {f"{node.scope}/weights": kernel},
                {
                    "kernel_shape": kernel.shape[2:],
                    "strides": [given["stride"]] * 2,
                    "dilations": [given["dilation"]] * 2,
                    "pads": given["padding"],
                },
            )
        case "norm":  # takes its variables in slim's order
            return "BatchNormalization", weights, {"epsilon": given["epsilon"]}
        case "group_norm":
            return "GroupNormalization", weights, {"num_groups": given["groups"], "epsilon": given["epsilon"]}
        case "relu":
            return "Relu", {}, {}
        case "add":
            return "Add", {}, {}
        case "pad":
            top, left, bottom, right = given["padding"]
            pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
            return "Pad", {f"{node.name}/pads": pads}, {}
        case "max_pool":
            window = {"kernel_shape": [given["kernel"]] * 2, "strides": [given["stride"]] * 2}
            words: dict[str, dict[str, Any]] = {"same": {"auto_pad": "SAME_UPPER"}, "ceil": {"ceil_mode": 1}}
            padding = given["padding"]
            return "MaxPool", {}, window | (words[padding] if isinstance(padding, str) else {"pads": padding})
        case "avg_pool":
            window = {"kernel_shape": [given["kernel"]] * 2, "strides": [given["stride"]] * 2}
            return "AveragePool", {}, window | {"ceil_mode": 1, "count_include_pad": 0}
        case "subsample":
            return "MaxPool", {}, {"kernel_shape": [1, 1], "strides": [given["stride"]] * 2}
        case "identity":
            return "Identity", {}, {}
        case "mean":
            return "GlobalAveragePool", {}, {}
        case "flatten":
            return "Flatten", {}, {}
        case "dense":
            return "Gemm", weights, {}
        case "softmax":
            return "Softmax", {}, {"axis": 1}
