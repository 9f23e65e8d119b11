"""A plain graph computes what the reference computes, in twelve operations that know nothing of networks."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest
from plain_networks import BLOCKS, CASES, SIZES, random_images, random_weights

import resforward.graph
from resforward import Block, EndPointError, Network, NetworkError, bottleneck, resnet_v2
from resforward.families import SLIM_V1, SLIM_V2, Pool, Stem
from resforward.graph import INPUT, Graph, Node, plain_graph
from resforward.plan import lay_out
from resforward.reference import avg_pool2d, batch_norm, conv2d_same, forward, group_norm, relu, softmax
from resforward.resnet import resnet


def compute(graph: Graph, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of a graph, in float64."""
    tensors = {INPUT: images.astype(np.float64)}
    for node in graph.nodes:
        tensors[node.name] = operation(node, *(tensors[name] for name in node.inputs))
    return tensors


def operation(node: Node, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    weights = {name: array.astype(np.float64) for name, array in node.weights.items()}
    given = node.attributes
    match node.op:
        case "conv":
            kernel = len(weights["weights"])
            assert given["padding"] == (given["dilation"] * (kernel // 2),) * 4  # what conv2d_same pads
            out = conv2d_same(x, weights["weights"], given["stride"], given["dilation"])
            return out + weights.get("biases", 0)
        case "norm":
            return batch_norm(x, **weights, epsilon=given["epsilon"])
        case "group_norm":
            return group_norm(x, **weights, groups=given["groups"], epsilon=given["epsilon"])
        case "avg_pool":
            assert given["kernel"] == given["stride"]
            return avg_pool2d(x, given["stride"])
        case "relu":
            return relu(x)
        case "add":
            return x + y
        case "pad":
            return padded(x, given["padding"], 0)
        case "max_pool":
            kernel, stride = given["kernel"], given["stride"]
            x = padded(x, given["padding"], -np.inf)
            windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
            return windows[:, ::stride, ::stride].max(axis=(-2, -1))
        case "subsample":
            return x[:, :: given["stride"], :: given["stride"]]
        case "identity":
            return x
        case "mean":
            return x.mean(axis=(1, 2), keepdims=True)
        case "flatten":
            return x[:, 0, 0]
        case "dense":
            return x @ weights["weights"] + weights["biases"]
        case "softmax":
            return softmax(x)


def padded(x: np.ndarray, padding: tuple[int, int, int, int], value: float) -> np.ndarray:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_every_end_point_is_the_reference_s(case: str, size: tuple[int, int]) -> None:
    network = CASES[case]
    points = network.end_points(*size)
    weights, images = random_weights(network), random_images(network, size, batch=2)
    graph = plain_graph(network, weights, points, size=size)
    found = compute(graph, images)
    expected = forward(network, weights, images, np.float64)[1]
    assert set(graph.outputs) == set(points)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name].reshape(tensor.shape), tensor, rtol=1e-12, atol=1e-12, err_msg=name)
    assert {node.name: (2, *node.shape) for node in graph.nodes} == {
        name: tensor.shape for name, tensor in found.items() if name != INPUT
    }


@pytest.mark.parametrize("case", CASES)
def test_a_free_size_changes_shapes_and_the_padding_of_the_pool_alone(case: str) -> None:
    network = CASES[case]
    free, fixed = (plain_graph(network, random_weights(network), size=size) for size in (None, (33, 47)))
    assert free.shape == (None, None, network.input_channels)
    assert fixed.shape == (33, 47, network.input_channels)
    for ours, theirs in zip(free.nodes, fixed.nodes, strict=True):
        assert (ours.op, ours.name, ours.inputs, ours.scope) == (theirs.op, theirs.name, theirs.inputs, theirs.scope)
        assert ours.shape[-1] == theirs.shape[-1]
        if ours.op == "max_pool" and network.stem.pool.padding != "symmetric":
            assert ours.attributes["padding"] == network.stem.pool.padding
        else:
            assert ours.attributes == theirs.attributes


@pytest.mark.parametrize("case", CASES)
def test_a_node_reads_what_is_there_and_every_weight_is_used_once(case: str) -> None:
    network = CASES[case]
    weights = random_weights(network)
    graph = plain_graph(network, weights)
    made = [INPUT]
    for node in graph.nodes:
        assert set(node.inputs) <= set(made)
        assert node.name not in made
        made.append(node.name)
    used = [f"{node.scope}/{part}" for node in graph.nodes for part in node.weights]
    assert sorted(used) == sorted(network.variables)
    assert made[-1] == graph.outputs[0]
    for node in graph.nodes:
        for part, array in node.weights.items():
            assert np.shares_memory(array, weights[f"{node.scope}/{part}"])


def test_the_docstring_lists_every_operation() -> None:
    rows = [line.split("|")[1].strip() for line in resforward.graph.__doc__.splitlines() if line.startswith("|")]
    assert rows[2:] == list(get_args(resforward.graph.Op))


def test_names_of_end_points_are_taken_as_elsewhere() -> None:
    network = CASES["v2"]
    weights = random_weights(network)
    assert plain_graph(network, weights, ["resnet_v2/block1", "block1", "logits"]).outputs == ("logits", "block1")
    assert plain_graph(network, weights, "block1").outputs == ("logits", "block1")
    with pytest.raises(EndPointError, match="block1/unit_1/bottleneck_v2"):
        plain_graph(network, weights, ["block1/unit1"])


STRANGE: dict[str, tuple[Network, str]] = {
    "norm": (
        resnet(dataclasses.replace(SLIM_V1, norm="gn"), BLOCKS),
        "block1/unit_1/bottleneck_v1/conv3: group norm without ReLU",
    ),
    "post": (
        resnet(dataclasses.replace(SLIM_V2, post="norm_relu"), BLOCKS),
        "block1/unit_1/bottleneck_v2: norm_relu after the sum",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_parts_without_an_operation_are_refused(case: str) -> None:
    network, part = STRANGE[case]
    assert any(part == found for found in network.uncomputed)
    with pytest.raises(NetworkError, match=part):
        plain_graph(network, {})
    with pytest.raises(NetworkError, match=part):
        lay_out(network, 1, 32, 32, ["block1"])


def test_a_pool_over_zeros_that_depends_on_the_size_wants_one() -> None:
    stem = Stem(
        kernel=7, stride=2, widths=(8,), bias=True, norm=False, relu=False, pool=Pool(3, 2, "same", fill="zero")
    )
    network = resnet_v2(BLOCKS, 5, stem=stem)
    weights, images = random_weights(network), random_images(network, (33, 48), batch=1)
    with pytest.raises(NetworkError, match="give a size"):
        plain_graph(network, weights)
    found = compute(plain_graph(network, weights, size=(33, 48)), images)
    expected = forward(network, weights, images, np.float64)[1]
    np.testing.assert_allclose(found["pool1"], expected["pool1"], rtol=1e-12)


def test_a_block_called_like_another_tensor_is_refused() -> None:
    network = resnet_v2([Block(INPUT, bottleneck, [(8, 4, 1)])], 5)
    weights = random_weights(network)
    assert plain_graph(network, weights).outputs == ("logits",)
    with pytest.raises(NetworkError, match="collide"):
        plain_graph(network, weights, [INPUT])
