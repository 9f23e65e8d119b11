"""Write a network and its weights as a plain ONNX file, the way a framework's exporter leaves it.

    write_onnx(NETWORKS["resnet_v2_50"], model.weights, "resnet_v2_50.onnx")

Batch norms and ReLUs are nodes of their own: fusing what can be fused is the work of the runtime that reads the file.
Batch, height and width are free. Tensors keep the names of their end points, variables those of the network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from resforward import Network
from resforward.errors import EndPointError, NetworkError, nearest
from resforward.families import Pool
from resforward.network import Conv, Unit, norm_variables

OPSET = 17

Weights = Mapping[str, npt.NDArray[np.float32]]


def write_onnx(
    network: Network, weights: Weights, path: str | os.PathLike[str], end_points: Sequence[str] = ()
) -> None:
    """Write `network` as an ONNX file: `images` (N, C, H, W) in, `logits` and the wanted end points out.

    >>> write_onnx(NETWORKS["resnet_v2_50"], model.weights, "resnet_v2_50.onnx", end_points=["block1", "global_pool"])

    Logits are (N, classes) after a global pool, else (N, classes, height, width), and so are predictions; every other
    end point is (N, depth, height, width). A network without classifier puts out its last tensor instead of logits.

    Args:
        network: the table.
        weights: {variable: array}, the names and shapes of `network.variables`, kernels HWIO.
        path: of the file; an existing one is overwritten.
        end_points: canonical names of further outputs.

    Raises:
        NetworkError: a network of parts that no published slim network has.
        EndPointError: a name that is no end point of this network.
    """
    known = network.end_points(224, 224)  # names and depths are the same at every size
    for name in end_points:
        if name not in known:
            raise EndPointError(f"{network.name} has no end point `{name}`", help=nearest(name, known))
    if strange := _strange_parts(network):
        raise NetworkError(f"{network.name} cannot be written as ONNX", found=strange)
    graph = _Graph(network, weights)
    last = graph.forward(predictions="predictions" in end_points)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, _output_shape(network, name, known[name].depth))
        for name in dict.fromkeys([last, *end_points])
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", network.input_channels, "H", "W"])
    model = helper.make_model(
        helper.make_graph(graph.nodes, network.name, [images], outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,  # the one that came with opset 17
        producer_name="resforward",
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, os.fspath(path))


def _strange_parts(network: Network) -> list[str]:
    """The choices in the table that only families other than slim's make, and that `_Graph` has no nodes for."""
    family, pool = network.family, network.stem.pool if network.stem else None
    parts = {f"shortcut {unit.shortcut}" for unit in network.units} & {"shortcut avg_projection", "shortcut zero_pad"}
    parts |= {f"post {unit.post}" for unit in network.units} & {"post norm_relu"}
    if pool and pool.fill == "zero" and pool.padding != "symmetric":
        parts.add(f"pool1 with {pool.padding} padding of zeros")
    if family.norm != "bn" or family.weight_epsilon is not None or family.input_norm:
        parts.add(f"the norms of {family.name}")
    return sorted(parts)


def _output_shape(network: Network, name: str, depth: int) -> list[str | int | None]:
    flat = name in ("logits", "predictions") and network.global_pool
    return ["N", depth] if flat else ["N", depth, None, None]


class _Graph:
    """Nodes and initializers in order of computation; every method returns the name of the tensor it added."""

    def __init__(self, network: Network, weights: Weights) -> None:
        self.network = network
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def forward(self, predictions: bool) -> str:
        """The whole network; returns its last tensor but predictions."""
        network, net = self.network, "images"
        for conv in network.stem_convs:
            net = self.conv(conv, net)
        if network.stem and network.stem.pool:
            net = self.pool(network.stem.pool, net)
        for block, units in network.blocks.items():
            for unit in units:
                net = self.unit(unit, net)
            net = self.node("Identity", [net], block)
        if network.family.final_norm:
            net = self.norm_relu("postnorm", net)
        if network.global_pool:
            net = self.node("GlobalAveragePool", [net], "global_pool")
        if network.logits:
            net = self.classifier(network.logits, net)
            if predictions:
                self.node("Softmax", [net], "predictions", axis=1)
        return net

    def unit(self, unit: Unit, net: str) -> str:
        """A residual unit: shortcut + residual path, with what its family puts before and after."""
        path = self.norm_relu(f"{unit.name}/preact", net) if unit.pre != "none" else net
        shortcut = path if unit.pre == "both" else net
        if unit.projection:
            shortcut = self.conv(unit.projection, shortcut)
        elif unit.stride > 1:
            shortcut = self.node(
                "MaxPool", [shortcut], f"{unit.name}/subsample", kernel_shape=[1, 1], strides=[unit.stride] * 2
            )
        for conv in unit.convs:
            path = self.conv(conv, path)
        if unit.post == "none":
            return self.node("Add", [shortcut, path], unit.name)
        return self.node("Relu", [self.node("Add", [shortcut, path], f"{unit.name}/Add")], unit.name)

    def conv(self, conv: Conv, net: str) -> str:
        """A convolution and the batch norm and ReLU that belong to it."""
        name = conv.name
        inputs = [net, self.constant(f"{name}/weights", self.weights[f"{name}/weights"].transpose(3, 2, 0, 1))]
        if conv.bias:
            inputs.append(self.variable(f"{name}/biases"))
        net = self.node(
            "Conv",
            inputs,
            f"{name}/Conv" if conv.norm or conv.relu else name,
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            dilations=[conv.rate] * 2,
            pads=[conv.rate * (conv.kernel // 2)] * 4,
        )
        if conv.norm:
            net = self.norm(f"{name}/BatchNorm", net, f"{name}/BatchNorm" if conv.relu else name)
        return self.node("Relu", [net], name) if conv.relu else net

    def norm_relu(self, scope: str, net: str) -> str:
        """Batch norm, then ReLU."""
        return self.node("Relu", [self.norm(scope, net, f"{scope}/BatchNorm")], scope)

    def norm(self, scope: str, net: str, output: str) -> str:
        """Batch norm with the variables of `scope`, which ONNX takes in slim's order."""
        inputs = [net, *(self.variable(name) for name in norm_variables(scope, 0))]
        return self.node("BatchNormalization", inputs, output, epsilon=self.network.epsilon)

    def pool(self, pool: Pool, net: str) -> str:
        """The max-pool of the root block with its family's alignment."""
        beside = [pool.kernel // 2] * 2
        if pool.fill == "zero":
            pads = self.constant("pool1/pads", np.array([0, 0, *beside, 0, 0, *beside], np.int64))
            net = self.node("Pad", [net, pads], "pool1/Pad")
        padding: dict[str, dict[str, Any]] = {
            "same": {"auto_pad": "SAME_UPPER"},  # TensorFlow's SAME at every size of image
            "symmetric": {"pads": [0] * 4 if pool.fill == "zero" else beside * 2},
            "ceil": {"ceil_mode": 1},
        }
        size = {"kernel_shape": [pool.kernel] * 2, "strides": [pool.stride] * 2}
        return self.node("MaxPool", [net], "pool1", **size, **padding[pool.padding])

    def classifier(self, logits: Conv, net: str) -> str:
        """A matrix product over the pooled features, or a 1x1 convolution where none were pooled."""
        if not self.network.global_pool:
            return self.conv(logits, net)
        kernel = self.constant("logits/weights", self.weights["logits/weights"][0, 0])
        flat = self.node("Flatten", [net], "logits/Flatten")
        return self.node("Gemm", [flat, kernel, self.variable("logits/biases")], "logits")

    def variable(self, name: str) -> str:
        """A variable as it is."""
        return self.constant(name, self.weights[name])

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """An initializer."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node of one output, called like it."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output
