"""The ONNX files that onnxruntime is measured on compute what the reference computes, at every end point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resforward import NETWORKS, Block, Network, bottleneck, resnet_v1, resnet_v2
from resforward.errors import EndPointError
from resforward.families import SLIM_V2, Pool, Stem
from resforward.network import resnet
from resforward.reference import forward

pytest.importorskip("onnx", reason="an extra: pip install resforward[peers]")
ort = pytest.importorskip("onnxruntime", reason="an extra: pip install resforward[peers]")

from onnx_network import write_onnx  # noqa: E402  needs onnx

pytestmark = pytest.mark.oracle

BLOCKS = [
    Block("block1", bottleneck, [(16, 4, 1), (16, 4, 1), (16, 4, 2)]),
    Block("block2", bottleneck, [(32, 8, 1), (32, 8, 2)]),
    Block("block3", bottleneck, [(64, 16, 1)] * 2),
]
TOLERANCE = 1e-5  # of the largest value: what resforward promises; float32 over these networks rounds to about 1e-6


def _deep_stem(pool: Pool) -> Network:
    return resnet(SLIM_V2, BLOCKS, 5, stem=Stem(kernel=7, stride=2, widths=(8, 12), bias=True, norm=True, pool=pool))


CASES = {
    "v1": resnet_v1(BLOCKS, 7),
    "v2": resnet_v2(BLOCKS, 7),
    "v1 dense": resnet_v1(BLOCKS, 7, global_pool=False, output_stride=8),
    "v2 dense": resnet_v2(BLOCKS, 7, global_pool=False, output_stride=8),
    "features": resnet_v1(BLOCKS),
    "features, no root block": resnet_v2(BLOCKS, global_pool=False, include_root_block=False),
    "symmetric pool": _deep_stem(Pool(3, 2, "symmetric")),
    "pool over zeros": _deep_stem(Pool(3, 2, "symmetric", fill="zero")),
    "Caffe's pool": _deep_stem(Pool(3, 2, "ceil")),
    "fashion": NETWORKS["fashion"],
}


def _random_weights(network: Network) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weights = {}
    for name, shape in network.variables.items():
        if name.endswith("/weights"):
            array = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))  # He's, so that values stay near 1
        elif name.endswith(("/gamma", "/moving_variance")):
            array = random.uniform(0.5, 1.5, shape)
        else:
            array = 0.1 * random.standard_normal(shape)
        weights[name] = array.astype(np.float32)
    return weights


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 29)])
@pytest.mark.parametrize("case", CASES)
def test_every_end_point_is_the_references(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    network, names = CASES[case], list(CASES[case].end_points(*size))
    weights = _random_weights(network)
    images = np.random.default_rng(1).standard_normal((2, *size, network.input_channels), np.float32)
    write_onnx(network, weights, tmp_path / "network.onnx", end_points=names)

    session = ort.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}),
            strict=True,
        )
    )

    expected = forward(network, weights, images, np.float64)[1]
    assert set(found) == set(names)
    for name in names:
        wanted = expected[name].transpose(0, 3, 1, 2)
        if found[name].ndim == 2:  # logits and predictions after a global pool
            wanted = wanted[:, :, 0, 0]
        assert found[name].shape == wanted.shape, name
        assert np.abs(found[name] - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


def test_an_unknown_end_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EndPointError, match="block1/unit1"):
        write_onnx(CASES["v2"], {}, tmp_path / "network.onnx", end_points=["block1/unit1"])
    assert not list(tmp_path.iterdir())
