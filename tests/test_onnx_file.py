"""ONNX files compute what the reference computes, at every end point, in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import EncodeError
from plain_networks import CASES, SIZES, random_images, random_weights

from resforward import NETWORKS, Network, ResforwardError, __version__, build, onnx_file
from resforward.graph import plain_graph
from resforward.onnx_file import OPSET, onnx_bytes
from resforward.reference import forward

TOLERANCE = 1e-5  # of the largest value: what resforward promises; float32 over these networks rounds to about 1e-6


def run(data: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime computes for (N, H, W, C) images, by name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    return dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))


def assert_is_the_reference_s(
    network: Network, weights: dict[str, np.ndarray], images: np.ndarray, found: dict[str, np.ndarray]
) -> None:
    expected = forward(network, weights, images, np.float64)[1]
    for name, tensor in found.items():
        wanted = expected[name].transpose(0, 3, 1, 2)
        if tensor.ndim == 2:  # logits and predictions after a global pool
            wanted = wanted[:, :, 0, 0]
        assert tensor.shape == wanted.shape, name
        assert np.abs(tensor - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


@pytest.mark.parametrize("case", CASES)
def test_every_end_point_is_the_reference_s(case: str) -> None:
    network, weights = CASES[case], random_weights(CASES[case])
    names = network.end_points(1, 1)
    data = onnx_bytes(plain_graph(network, weights, names))
    for size, batch in zip(SIZES, (2, 1, 3), strict=True):  # one file for every size and batch
        images = random_images(network, size, batch)
        found = run(data, images)
        assert set(found) == set(names)
        assert_is_the_reference_s(network, weights, images, found)


@pytest.mark.parametrize("case", CASES)
def test_a_fixed_size_is_written_down(case: str) -> None:
    network, weights, size = CASES[case], random_weights(CASES[case]), (33, 47)
    images = random_images(network, size, batch=3)
    data = onnx_bytes(plain_graph(network, weights, size=size))
    found = run(data, images)
    assert_is_the_reference_s(network, weights, images, found)
    graph = onnx.load_from_string(data).graph
    assert dimensions(graph.input[0]) == ["N", network.input_channels, *size]
    assert {value.name: dimensions(value) for value in graph.output} == {
        name: ["N", *tensor.shape[1:]] for name, tensor in found.items()
    }


def test_batch_and_size_are_free() -> None:
    graph = onnx.load_from_string(onnx_bytes(plain_graph(CASES["v2"], random_weights(CASES["v2"])))).graph
    assert dimensions(graph.input[0]) == ["N", 3, "H", "W"]


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_the_file_says_who_wrote_it() -> None:
    network = CASES["v2"]
    model = onnx.load_from_string(onnx_bytes(plain_graph(network, random_weights(network)), {"a": "b"}))
    assert (model.producer_name, model.producer_version) == ("resforward", __version__)
    assert [(prop.key, prop.value) for prop in model.metadata_props] == [("a", "b")]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert {tensor.name for tensor in model.graph.initializer} == set(network.variables)


def test_weights_beyond_the_limit_of_the_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = CASES["v2"]
    graph = plain_graph(network, random_weights(network))
    size = len(onnx_bytes(graph))
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 4 * network.parameters - 1)
    with pytest.raises(ResforwardError, match="less than 2 GiB"):
        onnx_bytes(graph)
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", size)
    assert len(onnx_bytes(graph)) == size


def test_what_surrounds_the_weights_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = CASES["v2"]
    graph = plain_graph(network, random_weights(network))
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", len(onnx_bytes(graph)) - 1)
    with pytest.raises(ResforwardError, match="less than 2 GiB"):
        onnx_bytes(graph)


@pytest.mark.parametrize("error", [EncodeError, ValueError])
def test_what_protobuf_cannot_write_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Unwritable:
        def SerializeToString(self) -> bytes:  # noqa: N802
            raise error("too large")

    network = CASES["v2"]
    graph = plain_graph(network, random_weights(network))
    monkeypatch.setattr(onnx_file.helper, "make_model", lambda *_, **__: Unwritable())
    monkeypatch.setattr(onnx_file.helper, "set_model_props", lambda *_: None)
    with pytest.raises(ResforwardError, match="less than 2 GiB"):
        onnx_bytes(graph)


@pytest.mark.oracle
def test_resnet_v2_50_is_the_reference_s() -> None:
    network = NETWORKS["resnet_v2_50"]
    weights, images = build(network).weights, random_images(network, (65, 97), batch=2)
    names = network.end_points(1, 1)
    found = run(onnx_bytes(plain_graph(network, weights, names)), images)
    assert set(found) == set(names)
    assert_is_the_reference_s(network, weights, images, found)
