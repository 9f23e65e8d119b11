"""A network found again in the plain graph that it was spelled out as, whatever tensors are called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plain_networks import CASES, random_weights

from resforward import NETWORKS, CheckpointError, build
from resforward.graph import Graph, Node, plain_graph
from resforward.network import Network
from resforward.onnx_constants import evaluate
from resforward.recognise import recognise


def spelled(network: Network, size: tuple[int, int] | None = None) -> Graph:
    """A network as plain operations, with names that say nothing."""
    graph = plain_graph(network, random_weights(network), size=size)
    names = {"images": "images"} | {node.name: f"t{place}" for place, node in enumerate(graph.nodes)}
    nodes = [
        replace(node, name=names[node.name], inputs=tuple(names[name] for name in node.inputs), scope="")
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes), outputs=tuple(names[name] for name in graph.outputs))


def same_units(network: Network) -> list[object]:
    """Units without what the graph cannot say: their names."""
    return [replace(unit, name="", block="") for unit in network.units]


@pytest.mark.parametrize("case", CASES)
def test_what_was_spelled_out_is_found_again(case: str) -> None:
    network, weights = CASES[case], random_weights(CASES[case])
    found = recognise(spelled(network), case)
    assert same_units(found.network) == same_units(network)
    assert replace(found.network.stem, widths=()) == replace(network.stem, widths=()) if network.stem else True
    assert (found.network.num_classes, found.network.global_pool) == (network.num_classes, network.global_pool)
    assert found.network.output_stride == network.output_stride
    assert set(found.weights) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found.weights[name], array, err_msg=name)  # nothing was folded, so no bit differs


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_are_known_by_what_they_compute(name: str) -> None:
    network = NETWORKS[name]
    found = recognise(plain_graph(network, build(network).weights), name).network
    if name == "fashion":  # no family has its root block
        assert found.family.name == "a graph of its own"
        assert found.family.preprocess is None
    else:
        assert found.name == name
        assert replace(found.family, networks="", stride_unit="last") == replace(
            network.family, networks="", stride_unit="last", background=None, kinds=("bottleneck",)
        )


@pytest.mark.parametrize(
    ("case", "known", "preprocess"),
    [
        ("v1", "slim v1", "vgg_224"),
        ("Keras v2", "Keras v2", "inception_299"),
        ("torch, folded", "torch v1.5, norms folded", "torchvision_224"),
        ("timm v2, basic units, folded", "timm v2, norms folded", "timm_v2_224"),
        ("BiT", "BiT", "bit_448"),
        ("Caffe's pool", "a graph of its own", None),
    ],
)
def test_the_family_decides_on_preprocessing(case: str, known: str, preprocess: str | None) -> None:
    family = recognise(spelled(CASES[case]), case).network.family
    assert (family.name, family.preprocess) == (known, preprocess)


def change(graph: Graph, op: str, place: int, **changes: object) -> Graph:
    """A graph with one of the nodes of an operation changed."""
    at = [i for i, node in enumerate(graph.nodes) if node.op == op][place]
    nodes = list(graph.nodes)
    nodes[at] = replace(nodes[at], **changes)  # type: ignore[arg-type]
    return replace(graph, nodes=tuple(nodes))


def test_norms_that_only_some_have_are_folded() -> None:
    """As after an optimiser that knows only some of an exporter's patterns."""
    network = CASES["torch"]
    graph = spelled(network)
    places = [i for i, node in enumerate(graph.nodes) if node.op == "norm"]
    gone = graph.nodes[places[1]]  # of the first unit's first convolution
    conv = next(node for node in graph.nodes if node.name == gone.inputs[0])
    scale = gone.weights["gamma"] / np.sqrt(gone.weights["moving_variance"] + gone.attributes["epsilon"])
    weights = {
        "weights": conv.weights["weights"] * scale,
        "biases": gone.weights["beta"] - gone.weights["moving_mean"] * scale,
    }
    nodes = [
        replace(node, weights=weights, name=gone.name) if node is conv else node
        for node in graph.nodes
        if node is not gone
    ]
    found = recognise(replace(graph, nodes=tuple(nodes)), "some").network
    assert found.family.norms == (False, False, True)
    assert found.family.bias == (True, True, False)
    assert [unit.stride for unit in found.units] == [unit.stride for unit in network.units]


REFUSED = {
    "a unit without ReLU": (lambda g: without(g, "relu", 1), "no ReLU follows it"),
    "a kernel padded by too little": (
        lambda g: change(g, "conv", 2, attributes={"stride": 1, "dilation": 1, "padding": (0, 0, 0, 0)}),
        "a kernel of 3 pixels is padded by (0, 0, 0, 0)",
    ),
    "no unit at all": (lambda g: cut(g, "add"), "no residual unit begins here"),
    "a sum of three ways": (lambda g: again(g), "3 nodes read what it reads"),
    "a second product": (lambda g: twice(g), "a ResNet ends before it"),
}


def without(graph: Graph, op: str, place: int) -> Graph:
    """A graph in which whoever read a node reads what it read."""
    gone = [node for node in graph.nodes if node.op == op][place]
    nodes = [
        replace(node, inputs=tuple(gone.inputs[0] if name == gone.name else name for name in node.inputs))
        for node in graph.nodes
        if node is not gone
    ]
    return replace(graph, nodes=tuple(nodes))


def cut(graph: Graph, op: str) -> Graph:
    """Only what comes before the first node of an operation."""
    at = [node.op for node in graph.nodes].index(op)
    return replace(graph, nodes=graph.nodes[:at], outputs=(graph.nodes[at - 1].name,))


def again(graph: Graph) -> Graph:
    """The shortcut is added once more."""
    at = [node.op for node in graph.nodes].index("add")
    first = graph.nodes[at]
    more = replace(first, name="more", inputs=(first.name, first.inputs[0]))
    nodes = [*graph.nodes[: at + 1], more, *(_reading(node, first.name, "more") for node in graph.nodes[at + 1 :])]
    return replace(graph, nodes=tuple(nodes))


def twice(graph: Graph) -> Graph:
    """A second classifier on the first one's logits."""
    last = graph.nodes[-1]
    depth = last.shape[-1] or 0
    more = Node("dense", "more", (last.name,), (3,), "", {"weights": np.ones((depth, 3), np.float32)})
    return replace(graph, nodes=(*graph.nodes, more), outputs=("more",))


def _reading(node: Node, old: str, new: str) -> Node:
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


@pytest.mark.parametrize("case", REFUSED)
def test_the_node_at_which_it_stops_being_a_resnet_is_named(case: str) -> None:
    spoil, why = REFUSED[case]
    with pytest.raises(CheckpointError, match="it stops being one at") as caught:
        recognise(spoil(spelled(CASES["torch"])), "other.onnx")
    assert caught.value.message.startswith("other.onnx is no ResNet that is known here")
    assert any(why in found for found in caught.value.found), caught.value.found


def test_a_size_that_is_free_stays_a_symbol_beside_numbers() -> None:
    sizes = np.array(["N", 16, 1, 1], object)  # as torch flattens with a free batch: Shape, Gather, Unsqueeze, Concat
    count = evaluate("Unsqueeze", [evaluate("Gather", [sizes, np.array(0)], {}), np.array([0])], {})
    assert evaluate("Concat", [count, np.array([-1])], {"axis": 0}).tolist() == ["N", -1]
