"""The NumPy reference against numbers made by hand, against slim's own laws, and against what slim computed."""

from __future__ import annotations

import dataclasses
import doctest

import numpy as np
import pytest
from golden.networks import GOLDENS, ONE_UNIT, SMALL, checkpoint, difference, read_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from resforward import NETWORKS, Block, Network, bottleneck, reference, resnet_v1, resnet_v2
from resforward.checkpoints import read_checkpoint
from resforward.errors import NetworkError
from resforward.families import Pool, PoolPadding
from resforward.reference import batch_norm, conv2d_same, forward, max_pool2d, softmax, subsample

# float32 has 2^-24 = 6e-8 of rounding a step; slim adds the same products in another order. 1e-5 is what is promised.
TOLERANCE = 1e-5


def picture(height: int, width: int) -> np.ndarray:
    """The image of slim's tests: pixel (y, x) is y + x."""
    return np.add.outer(np.arange(height), np.arange(width)).astype(np.float32).reshape(1, height, width, 1)


def kernel3() -> np.ndarray:
    """The kernel of slim's tests: 1 2 3 / 4 5 6 / 7 8 9."""
    return np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1, 1)


def random_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 1.5, shape) if name.endswith("moving_variance") else rng.normal(0, 0.5, shape)
        for name, shape in network.variables.items()
    }


def test_docstring_examples() -> None:
    results = doctest.testmod(reference)
    assert results.attempted > 20
    assert results.failed == 0


@pytest.mark.parametrize(("size", "kept"), [(4, [0, 2, 20, 22]), (5, [0, 2, 4, 20, 22, 24, 40, 42, 44])])
def test_subsample_keeps_the_first_pixel(size: int, kept: list[int]) -> None:
    numbered = np.add.outer(10 * np.arange(size), np.arange(size)).reshape(1, size, size, 1)
    assert subsample(numbered, 2).ravel().tolist() == kept


# Output (y, x) is the sum of kernel[r, s] * picture[y + r - 1, x + s - 1] over the taps inside the picture: in the
# corner 5 * 0 + 6 * 1 + 8 * 1 + 9 * 2 = 32; inside, 114 at (1, 1) and 45, the kernel's sum, more a pixel further on.
DENSE = {
    4: [[32, 67, 106, 76], [63, 114, 159, 108], [96, 159, 204, 135], [52, 82, 103, 64]],
    5: [
        [32, 67, 106, 145, 100],
        [63, 114, 159, 204, 135],
        [96, 159, 204, 249, 162],
        [129, 204, 249, 294, 189],
        [68, 103, 124, 145, 88],
    ],
}
STRIDED = {4: [[32, 106], [96, 204]], 5: [[32, 106, 100], [96, 204, 162], [68, 124, 88]]}


@pytest.mark.parametrize("size", [4, 5])
def test_conv2d_same_by_hand(size: int) -> None:
    assert conv2d_same(picture(size, size), kernel3())[0, :, :, 0].tolist() == DENSE[size]
    assert conv2d_same(picture(size, size), kernel3(), stride=2)[0, :, :, 0].tolist() == STRIDED[size]


def test_conv2d_same_rate_by_hand() -> None:
    # The centre of a 5 x 5 picture sees pixels 0, 2 and 4 of each axis: 0 2 4 / 2 4 6 / 4 6 8.
    centre = 0 * 1 + 2 * 2 + 4 * 3 + 2 * 4 + 4 * 5 + 6 * 6 + 4 * 7 + 6 * 8 + 8 * 9
    assert conv2d_same(picture(5, 5), kernel3(), rate=2)[0, 2, 2, 0] == centre


def test_conv2d_same_mixes_channels() -> None:
    inputs = np.array([[[[1, 10, 100]]]])
    weights = np.array([[1, 0], [0, 1], [2, 0]]).reshape(1, 1, 3, 2)
    assert conv2d_same(inputs, weights).tolist() == [[[[201, 10]]]]


@pytest.mark.parametrize(
    ("size", "padding", "wanted"),
    [
        (4, "same", [-0.0, -2.0]),  # windows 0-2, 2-3: nothing before an even axis
        (5, "same", [-0.0, -1.0, -3.0]),  # windows 0-1, 1-3, 3-4
        (4, "symmetric", [-0.0, -1.0]),
        (6, "symmetric", [-0.0, -1.0, -3.0]),
        (4, "ceil", [-0.0, -2.0]),
        (1, "same", [-0.0]),
        (1, "ceil", [-0.0]),
    ],
)
def test_max_pool2d_by_hand(size: int, padding: PoolPadding, wanted: list[float]) -> None:
    inputs = -np.arange(size, dtype=np.float32)
    for shape in ((1, 1, size, 1), (1, size, 1, 1)):
        assert max_pool2d(inputs.reshape(shape), Pool(3, 2, padding)).ravel().tolist() == wanted


def test_max_pool2d_fill_shows_on_negative_pixels_only() -> None:
    negative = np.full((1, 4, 4, 1), -5.0)
    assert max_pool2d(negative, Pool(3, 2, "same")).max() == -5
    assert max_pool2d(negative, Pool(3, 2, "symmetric", "zero"))[0, :, :, 0].tolist() == [[0, 0], [0, -5]]


def test_batch_norm_by_hand() -> None:
    inputs = np.array([[[[1.0, 2.0]]]])
    found = batch_norm(inputs, np.array([2, 3]), np.array([10, 20]), np.array([0, 4]), np.array([3, 0]), epsilon=1.0)
    assert found.tolist() == [[[[1 / 2 * 2 + 10, -2 / 1 * 3 + 20]]]]


def test_softmax_of_large_logits_is_finite() -> None:
    assert softmax(np.array([[1000.0, 1000.0, -1000.0]])).tolist() == [[0.5, 0.5, 0.0]]


@given(
    height=st.integers(1, 12), width=st.integers(1, 12), stride=st.integers(1, 3), rate=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5, 7]), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_strided_convolution_is_the_dense_one_subsampled(
    height: int, width: int, stride: int, rate: int, kernel: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs, weights = rng.normal(size=(2, height, width, 3)), rng.normal(size=(kernel, kernel, 3, 4))
    dense = subsample(conv2d_same(inputs, weights, 1, rate), stride)
    # The same sums of at most 147 products in float64; BLAS may order them by the number of rows.
    np.testing.assert_allclose(conv2d_same(inputs, weights, stride, rate), dense, rtol=0, atol=1e-12)


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), make=st.sampled_from([resnet_v1, resnet_v2]),
    output_stride=st.sampled_from([4, 8, 16, 32]), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_dense_output_subsampled_is_the_nominal_output(height, width, make, output_stride, seed) -> None:  # type: ignore[no-untyped-def]
    nominal = make(SMALL, global_pool=False)
    dense = make(SMALL, global_pool=False, output_stride=output_stride)
    weights = random_weights(nominal, seed)
    images = np.random.default_rng(seed).normal(size=(1, height, width, 3))
    wanted, _ = forward(nominal, weights, images, np.float64)
    found, _ = forward(dense, weights, images, np.float64)
    # Both are the same sums in float64, in another order, of values up to about `size`.
    size = 1 + np.abs(wanted).max()
    np.testing.assert_allclose(subsample(found, 32 // output_stride), wanted, rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize("name", GOLDENS)
def test_slim_computed_the_same(name: str) -> None:
    network, golden = GOLDENS[name], read_golden(name)
    stored = {key.removeprefix(f"{name}/"): array for key, array in read_checkpoint(checkpoint(name)).items()}
    assert set(network.variables) == set(stored) - {"global_step", "mean_rgb"}

    images = golden.pop("input")
    net, end_points = forward(network, stored, images)
    assert difference(net, golden.pop("net")) <= TOLERANCE
    assert set(end_points) == set(golden)
    for key, tensor in end_points.items():
        assert difference(tensor, golden[key]) <= TOLERANCE, key

    points = network.end_points(*images.shape[1:3])
    assert list(points) == list(end_points)
    assert {key: (len(images), *point.shape) for key, point in points.items()} == {
        key: tensor.shape for key, tensor in end_points.items()
    }
    assert {tensor.dtype for tensor in end_points.values()} == {np.dtype(np.float32)}


def test_end_points_are_the_table_s_without_a_max_pool() -> None:
    network = NETWORKS["fashion"]
    _, end_points = forward(network, random_weights(network, 0), np.ones((2, 28, 28, 1)))
    wanted = [(name, (2, *point.shape)) for name, point in network.end_points(28, 28).items()]
    assert [(name, tensor.shape) for name, tensor in end_points.items()] == wanted


def test_float64_is_computed_when_asked_for() -> None:
    network, images = GOLDENS["slim_v2"], read_golden("slim_v2")["input"]
    weights = random_weights(network, 0)
    exact, _ = forward(network, weights, images, np.float64)
    rounded, _ = forward(network, weights, images)
    assert exact.dtype == np.float64
    assert 0 < difference(rounded, exact) <= TOLERANCE


def test_images_and_weights_are_not_written_to() -> None:
    network = resnet_v2(ONE_UNIT, num_classes=3)
    weights = {name: array.astype(np.float32) for name, array in random_weights(network, 0).items()}
    images = np.ones((1, 9, 9, 3), np.float32)
    for array in (images, *weights.values()):
        array.flags.writeable = False
    forward(network, weights, images)


def test_missing_variable_is_named() -> None:
    network = resnet_v2(ONE_UNIT, num_classes=3)
    weights = random_weights(network, 0)
    del weights["postnorm/beta"]
    with pytest.raises(KeyError, match="postnorm/beta"):
        forward(network, weights, np.ones((1, 9, 9, 3)))


def test_unit_that_slim_has_not_is_refused() -> None:
    network = resnet_v1([Block("block1", bottleneck, [(8, 2, 1)])], include_root_block=False)
    unit = dataclasses.replace(network.units[0], post="norm_relu")
    with pytest.raises(NetworkError, match="norm_relu"):
        forward(dataclasses.replace(network, units=(unit,)), random_weights(network, 0), np.ones((1, 3, 3, 3)))
