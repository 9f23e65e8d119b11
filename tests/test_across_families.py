"""One function as weights of slim V1, of Keras V1 and of torchvision: what agrees, when, and what differs by what.

Slim V1 and Keras V1 both hold Kaiming He's Caffe networks, so they are one function written down in two ways; here is
every difference between the two, and with torchvision's "v1.5", which is another function:

- slim has a Block's stride in the 3x3 of its last unit, Keras in the 1x1 of the next Block's first unit. Both compute
  only what both keep: they agree exactly, for every weight, and slim's Block is every second pixel of Keras'.
- Keras' convolutions have biases, slim's have none: a bias moves the mean of the norm behind it. Its epsilon is 1e-8
  larger: that moves the variance, and shows only where a variance is near 1e-5.
- Keras' images are BGR: the input channels of the first convolution, from last to first.
- slim's pool pads as TensorFlow's SAME, Keras' and torchvision's by one pixel all around. They agree where the map that
  is pooled has odd sides; on even ones theirs begin one pixel of that map earlier, two of the image.
- torchvision has the stride in the 3x3 of the first unit: its 1x1 and its projection agree with Keras', its 3x3 has
  direct neighbours where Keras' has every second pixel. It agrees where that does not matter, without strides or where
  these kernels are only a centre; or with the 3x3 dilated by its stride.

Sources: google-research/tf-slim, tf_slim/nets/resnet_v1.py; keras-team/keras, keras/src/applications/resnet.py;
pytorch/vision, torchvision/models/resnet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import tf_writer
import torch_writer

from resforward import Block, Model, Network, bottleneck, load
from resforward.families import KERAS_V1, SLIM_V1, TORCH_V1, Family
from resforward.preprocess import PRESETS
from resforward.resnet import resnet

# From the image to the logits are 23 convolutions, each a rounding of 2^-24 = 6e-8, and one of what was folded into its
# norm's statistics; on both sides, if all of them went one way: 5e-6.
SAME = 5e-6
OTHER = 1e-2  # what differs is another function: by thousands of times that, or it is no test

UNITS, WIDTHS, STEM, CLASSES = (2, 3, 2), (16, 32, 64), 8, 5
LAST_BLOCK = f"block{len(UNITS)}"
SLIM_EPSILON, KERAS_EPSILON = 1e-5, 1.001e-5
Place = tuple[int, int, int]  # Block and unit from 1, convolution from 1, 0 the projection; all 0 for the stem

# The pool reads half the image, rounded up: 17, 19 and 23 pixels of these, 16, 18 and 24 of those.
ODD_MAPS = [(33, 45), (34, 37)]
EVEN_MAPS = [(32, 48), (35, 36)]


class Layer(NamedTuple):
    """A convolution without bias, HWIO, and the batch norm behind it, with slim's epsilon."""

    kernel: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class Function(NamedTuple):
    layers: dict[Place, Layer]
    head: np.ndarray
    bias: np.ndarray


def places() -> Iterator[tuple[Place, tuple[int, int, int]]]:
    """Every convolution with its (kernel, channels in, channels out)."""
    yield (0, 0, 0), (7, 3, STEM)
    depth_in = STEM
    for block, (units, depth) in enumerate(zip(UNITS, WIDTHS, strict=True), start=1):
        for unit in range(1, units + 1):
            if unit == 1:
                yield (block, unit, 0), (1, depth_in, depth)
            yield (block, unit, 1), (1, depth_in, depth // 4)
            yield (block, unit, 2), (3, depth // 4, depth // 4)
            yield (block, unit, 3), (1, depth // 4, depth)
            depth_in = depth


def function(variance: float = 1.0) -> Function:
    """Random weights whose activations stay near 1, whatever the variances are near.

    The stem's norm makes nothing positive of a black image, so that a black edge of it is as good as padding.
    """
    rng = np.random.default_rng(0)
    layers = {}
    for place, (kernel, depth_in, depth) in places():
        spread = rng.uniform(0.5, 1.5, depth) * variance
        gamma = rng.uniform(0.5, 1.0, depth) * np.sqrt(spread + SLIM_EPSILON)
        mean, beta = rng.normal(0, 0.1, depth), rng.normal(0, 0.1, depth)
        if place == (0, 0, 0):
            beta = mean * gamma / np.sqrt(spread + SLIM_EPSILON) - np.abs(beta)
        weights = rng.standard_normal((kernel, kernel, depth_in, depth)) * np.sqrt(2 / (kernel**2 * depth_in))
        layers[place] = Layer(*(a.astype(np.float32) for a in (weights, gamma, beta, mean, spread)))
    head = rng.standard_normal((WIDTHS[-1], CLASSES)).astype(np.float32) / 8
    return Function(layers, head, rng.normal(0, 0.1, CLASSES).astype(np.float32))


def strided(place: Place) -> bool:
    """A 3x3 that is in the unit behind a stride."""
    block, unit, convolution = place
    return block > 1 and unit == 1 and convolution == 2


def only_centres(of: Function) -> Function:
    """The same with nothing but the centre in the 3x3 kernels behind a stride."""
    layers = dict(of.layers)
    for place in filter(strided, layers):
        kernel = np.zeros_like(layers[place].kernel)
        kernel[1, 1] = layers[place].kernel[1, 1]
        layers[place] = layers[place]._replace(kernel=kernel)
    return of._replace(layers=layers)


# The three ways to write it down


def slim_file(of: Function, path: Path) -> Path:
    tensors = {"tiny/logits/weights": of.head[None, None], "tiny/logits/biases": of.bias}
    for (block, unit, convolution), layer in of.layers.items():
        inside = f"block{block}/unit_{unit}/bottleneck_v1/{f'conv{convolution}' if convolution else 'shortcut'}"
        scope = f"tiny/{inside if block else 'conv1'}"
        norm = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), layer[1:], strict=True))
        tensors |= {f"{scope}/weights": layer.kernel} | {f"{scope}/BatchNorm/{k}": a for k, a in norm.items()}
    (path / "tiny.ckpt").write_bytes(tf_writer.v1(tensors))
    return path / "tiny.ckpt"


def keras_file(of: Function, path: Path, *, fold_epsilon: bool = True) -> Path:
    """With biases, and what they and the larger epsilon change, put into the norms' statistics."""
    rng = np.random.default_rng(1)
    layers = {"predictions": {"kernel": of.head, "bias": of.bias}}
    for (block, unit, convolution), layer in of.layers.items():
        name = f"conv{block + 1}_block{unit}_{convolution}" if block else "conv1"
        bias = rng.normal(0, 0.5, layer.mean.shape).astype(np.float32)
        kernel = layer.kernel if block else layer.kernel[:, :, ::-1]
        variance = layer.variance.astype(np.float64) + (SLIM_EPSILON - KERAS_EPSILON if fold_epsilon else 0)
        layers[f"{name}_conv"] = {"kernel": kernel, "bias": bias}
        layers[f"{name}_bn"] = {
            "gamma": layer.gamma,
            "beta": layer.beta,
            "moving_mean": layer.mean + bias,
            "moving_variance": variance.astype(np.float32),
        }
    with h5py.File(path / "tiny.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, weights in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{weight}:0".encode() for weight in weights]
            for weight, array in weights.items():
                group[f"{name}/{weight}:0"] = array
    return path / "tiny.h5"


def torch_file(of: Function, path: Path, *, scale: np.ndarray | float = 1.0) -> Path:
    """`scale` is what each channel of the image was divided by."""
    tensors = {"fc.weight": of.head.T, "fc.bias": of.bias}
    for (block, unit, convolution), layer in of.layers.items():
        inside = f"layer{block}.{unit - 1}."
        names = (f"{inside}conv{convolution}", f"{inside}bn{convolution}")
        conv, norm = names if convolution else (f"{inside}downsample.0", f"{inside}downsample.1")
        if not block:
            conv, norm = "conv1", "bn1"
        kernel = layer.kernel if block else layer.kernel * np.reshape(scale, (-1, 1))
        parts = dict(zip(("weight", "bias", "running_mean", "running_var"), layer[1:], strict=True))
        tensors |= {f"{conv}.weight": kernel.transpose(3, 2, 0, 1)} | {f"{norm}.{k}": a for k, a in parts.items()}
    made = torch_writer.model({name: np.ascontiguousarray(a, np.float32) for name, a in tensors.items()})
    (path / "tiny.pth").write_bytes(torch_writer.zipped(torch_writer.state_dict(made), made.storages))
    return path / "tiny.pth"


def images_of(size: tuple[int, int]) -> np.ndarray:
    """RGB, as slim and torchvision read it; Keras reads its last axis from the end."""
    return np.random.default_rng(2).standard_normal((2, *size, 3), np.float32)


def bgr(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1].copy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest, over the largest value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def halved(a: np.ndarray) -> np.ndarray:
    return a[:, ::2, ::2]


def end(block: int, unit: int, part: str = "") -> str:
    return f"block{block}/unit_{unit}/bottleneck_v1{part and f'/{part}'}"


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(slim_file(function(), tmp_path_factory.mktemp("slim")))


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(keras_file(function(), tmp_path_factory.mktemp("keras")))


@pytest.fixture(scope="module")
def torch(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(torch_file(function(), tmp_path_factory.mktemp("torch")))


def test_the_files_are_of_three_families(slim: Model, keras: Model, torch: Model) -> None:
    assert [model.network.family for model in (slim, keras, torch)] == [SLIM_V1, KERAS_V1, TORCH_V1]
    strides = {m.source: [unit.stride for unit in m.network.units] for m in (slim, keras, torch)}
    first = [1, 1, 2, 1, 1, 2, 1]
    assert strides == {"tiny.ckpt": [1, 2, 1, 1, 2, 1, 1], "tiny.h5": first, "tiny.pth": first}
    assert [unit.stride_at for unit in (slim.network.units[1], keras.network.units[2], torch.network.units[2])] == [
        2,
        1,
        2,
    ]


# Slim and Keras


@pytest.mark.parametrize("size", ODD_MAPS)
def test_slim_and_keras_are_one_function(slim: Model, keras: Model, size: tuple[int, int]) -> None:
    """With biases, epsilon, BGR and the places of the strides all different."""
    images = images_of(size)
    ours, theirs = slim.forward(images), keras.forward(bgr(images))
    for name in ("conv1", "pool1", "block3", "global_pool", "logits", "predictions"):
        assert difference(theirs[name], ours[name]) <= SAME, name
    for block in (1, 2):
        assert difference(halved(theirs[f"block{block}"]), ours[f"block{block}"]) <= SAME
        last = UNITS[block - 1]
        assert difference(halved(theirs[end(block, last, "conv2")]), ours[end(block, last, "conv2")]) <= SAME
        assert difference(theirs[end(block + 1, 1, "shortcut")], ours[end(block + 1, 1, "shortcut")]) <= SAME


@pytest.mark.parametrize("output_stride", [4, 8])
def test_slim_and_keras_are_one_function_where_strides_became_rates(output_stride: int, tmp_path: Path) -> None:
    images = images_of(ODD_MAPS[0])
    ours = load(slim_file(function(), tmp_path), output_stride=output_stride).forward(images)
    theirs = load(keras_file(function(), tmp_path), output_stride=output_stride).forward(bgr(images))
    for name in (LAST_BLOCK, "logits"):
        assert difference(theirs[name], ours[name]) <= SAME, name


def test_the_channels_are_the_other_way_round(slim: Model, keras: Model) -> None:
    images = images_of(ODD_MAPS[0])
    assert difference(keras.forward(images)["logits"], slim.forward(images)["logits"]) > OTHER


def test_the_larger_epsilon_shows_at_small_variances_alone(tmp_path: Path) -> None:
    """A factor of 1 - 1e-8 / (2 x variance) a norm: nothing in float32 at 1, 1e-4 and more at 1e-5."""
    images = images_of(ODD_MAPS[0])
    found = {}
    for variance in (1.0, 1e-5):
        of = function(variance)
        logits = load(slim_file(of, tmp_path)).forward(images)["logits"]
        for fold_epsilon in (True, False):
            model = load(keras_file(of, tmp_path, fold_epsilon=fold_epsilon))
            found[variance, fold_epsilon] = difference(model.forward(bgr(images))["logits"], logits)
    assert found[1.0, True] <= SAME
    assert found[1.0, False] <= SAME
    assert found[1e-5, True] <= SAME
    assert 100 * SAME < found[1e-5, False] < OTHER


# The pool's alignment


@pytest.mark.parametrize("size", EVEN_MAPS)
def test_pools_of_even_maps_begin_one_pixel_apart(slim: Model, keras: Model, size: tuple[int, int]) -> None:
    images = images_of(size)
    ours, theirs = slim.forward(images), keras.forward(bgr(images))
    assert difference(theirs["conv1"], ours["conv1"]) <= SAME
    assert theirs["pool1"].shape == ours["pool1"].shape
    assert difference(theirs["pool1"], ours["pool1"]) > OTHER
    assert difference(theirs["logits"], ours["logits"]) > OTHER
    # The stem has stride 2: without its first two rows and columns, the image is where slim's windows want it. Only
    # the first windows read pixels of conv1 that saw those rows and columns.
    shifted = keras.forward(bgr(images[:, 2:, 2:]))["pool1"]
    assert shifted.shape == ours["pool1"].shape
    assert difference(shifted[:, 2:, 2:], ours["pool1"][:, 2:, 2:]) <= SAME
    assert difference(shifted[:, :2], ours["pool1"][:, :2]) > OTHER


@pytest.mark.parametrize("size", EVEN_MAPS)
def test_two_pixels_make_them_one_function_where_the_edge_is_black(
    slim: Model, keras: Model, size: tuple[int, int]
) -> None:
    """Four black pixels: as many as conv1 reads of the image for the one pixel of its map that comes before theirs.

    Its norm makes nothing positive of them: slim's first windows have a pixel of that where theirs have padding, and
    their last windows have one where slim's have padding.
    """
    images = images_of(size)
    black = np.zeros_like(images)
    black[:, 4:-4, 4:-4] = images[:, 4:-4, 4:-4]
    ours, theirs = slim.forward(black), keras.forward(bgr(np.roll(black, (-2, -2), axis=(1, 2))))
    for name in ("pool1", LAST_BLOCK, "logits"):
        assert difference(theirs[name], ours[name]) <= SAME, name
    assert difference(keras.forward(bgr(black))["logits"], ours["logits"]) > OTHER


# torchvision


@pytest.mark.parametrize("size", ODD_MAPS + EVEN_MAPS)
def test_torchvision_differs_in_the_3x3_behind_a_stride_alone(
    keras: Model, torch: Model, size: tuple[int, int]
) -> None:
    images = images_of(size)
    ours, theirs = torch.forward(images), keras.forward(bgr(images))
    for name in ("conv1", "pool1", "block1", end(2, 1, "shortcut")):
        assert difference(theirs[name], ours[name]) <= SAME, name
    assert difference(theirs[end(2, 1, "conv1")], halved(ours[end(2, 1, "conv1")])) <= SAME
    for name in (end(2, 1, "conv2"), "block2", LAST_BLOCK, "logits"):
        assert difference(theirs[name], ours[name]) > OTHER, name


@pytest.mark.parametrize("size", ODD_MAPS + EVEN_MAPS)
def test_torchvision_s_function_is_the_others_with_that_3x3_dilated(
    keras: Model, torch: Model, size: tuple[int, int], tmp_path: Path
) -> None:
    units = [replace(u, rates=(1, u.stride, 1)) for u in torch.network.units]
    dilated = Model(replace(torch.network, units=tuple(units)), torch.weights)
    images = images_of(size)
    ours, theirs = dilated.forward(images), keras.forward(bgr(images))
    for name in ("block1", end(2, 1, "conv2"), "block2", LAST_BLOCK, "logits"):
        assert difference(theirs[name], ours[name]) <= SAME, name


Without = Callable[[Function, Path], list[Model]]


def without_neighbours(of: Function, path: Path) -> list[Model]:
    return [load(write(only_centres(of), path)) for write in (slim_file, keras_file, torch_file)]


def without_strides(of: Function, path: Path) -> list[Model]:
    def network(family: Family) -> Network:
        blocks = [
            Block(f"block{i}", bottleneck, [(depth, depth // 4, 1)] * units)
            for i, (units, depth) in enumerate(zip(UNITS, WIDTHS, strict=True), start=1)
        ]
        return resnet(family, blocks, CLASSES, stem=replace(family.stem, widths=(STEM,)))

    rows = ((slim_file, SLIM_V1), (keras_file, KERAS_V1), (torch_file, TORCH_V1))
    return [load(write(of, path), network=network(family)) for write, family in rows]


@pytest.mark.parametrize("without", [without_neighbours, without_strides])
def test_all_three_are_one_function_without_strides_or_neighbours_behind_them(without: Without, tmp_path: Path) -> None:
    """Slim on odd maps, the other two on all."""
    slim, keras, torch = without(function(), tmp_path)
    for size in ODD_MAPS + EVEN_MAPS:
        images = images_of(size)
        found = [slim.forward(images), keras.forward(bgr(images)), torch.forward(images)]
        for name in (LAST_BLOCK, "logits", "predictions"):
            ours, theirs, third = (tensors[name] for tensors in found)
            assert difference(third, theirs) <= SAME, (size, name)
            apart = difference(theirs, ours)
            assert apart <= SAME if size in ODD_MAPS else apart > OTHER, (size, name)


def test_one_picture_through_each_library_s_own_preprocessing(tmp_path: Path) -> None:
    """RGB 0..255, BGR 0..255, and RGB divided by a standard deviation; of one mean, as conv1 pads with zeros."""
    size, mean = ODD_MAPS[0], np.array([123.68, 116.779, 103.939])  # Caffe's: it is Keras', and slim's but for 0.001
    slim_row, keras_row, torch_row = (
        replace(PRESETS[family.preprocess], size=size, crop=1.0) for family in (SLIM_V1, KERAS_V1, TORCH_V1)
    )
    of = only_centres(function())
    of.layers[0, 0, 0] = of.layers[0, 0, 0]._replace(kernel=of.layers[0, 0, 0].kernel / 64)  # pixels are large
    scale = 255 * np.array(torch_row.std)
    models = [
        load(slim_file(of, tmp_path), preprocess=replace(slim_row, mean=tuple(mean))),
        load(keras_file(of, tmp_path), preprocess=keras_row),
        load(torch_file(of, tmp_path, scale=scale), preprocess=replace(torch_row, mean=tuple(mean / 255))),
    ]
    picture = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    ours, theirs, third = (model.encode(picture) for model in models)
    assert keras_row.mean == tuple(mean[::-1])
    assert difference(theirs, ours) <= SAME
    assert difference(third, ours) <= SAME
