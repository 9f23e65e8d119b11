"""One file that is a whole model: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import CASES, random_images, random_weights
from safetensors import safe_open

from resforward import CheckpointError, Model, NetworkError, convert, load, read_checkpoint
from resforward.own_file import KEY, describe, own_bytes, understand
from resforward.preprocess import VGG_224

CONVERTED = [case for case, network in CASES.items() if network.output_stride is None]


@pytest.mark.parametrize("case", CONVERTED)
def test_the_whole_model_comes_back(case: str, tmp_path: Path) -> None:
    network = CASES[case]
    labels = [f"class {i}" for i in range(network.num_classes)] or None
    row = VGG_224 if network.input_channels == 3 else None
    model = Model(network, random_weights(network), preprocess=row, labels=labels)
    written = convert(model, tmp_path / "model.safetensors")
    again = load(written.path)
    assert again.network.variables == network.variables
    assert again.network.units == network.units
    assert again.network.family.weight_epsilon is None
    assert (again.network.name, again.network.stem) == (network.name, network.stem)
    assert (again.preprocess, again.labels) == (row, tuple(labels) if labels else None)
    images = random_images(network, (33, 47), batch=1)
    assert again(images).tobytes() == model(images).tobytes()
    assert convert(again, tmp_path / "again.safetensors").bytes == written.bytes


def test_the_library_reads_it_and_its_tensors_are_aligned(tmp_path: Path) -> None:
    network = CASES["torch"]
    weights = random_weights(network)
    path = tmp_path / "model.safetensors"
    path.write_bytes(own_bytes(weights, describe(network, None, None), "float32"))
    with safe_open(str(path), framework="numpy") as file:
        assert set(file.keys()) == set(weights)
        for name, array in weights.items():
            assert np.array_equal(file.get_tensor(name), array)
        assert json.loads(file.metadata()[KEY])["version"] == 1
    assert int.from_bytes(path.read_bytes()[:8], "little") % 64 == 0


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_bfloat16_is_the_nearest(values: list[float]) -> None:
    array = np.array(values, np.float32)
    (size,) = np.frombuffer(data := own_bytes({"x": array}, {}, "bfloat16"), "<u8", 1)
    stored = np.frombuffer(data[8 + int(size) :], "<u2").astype(np.uint32)
    found = (stored << 16).view(np.float32)
    lower = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
    with np.errstate(over="ignore"):
        upper = ((array.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32)
    for x, got, one, other in zip(array, found, lower, upper, strict=True):
        distances = [abs(float(x) - float(near)) for near in (one, other) if np.isfinite(near)]
        assert not np.isfinite(got) or abs(float(x) - float(got)) == min(distances)


def test_bfloat16_halves_the_file_and_is_read_as_float32(tmp_path: Path) -> None:
    model = load("fashion")
    full, half = (convert(model, tmp_path / f"{s}.safetensors", storage=s) for s in ("float32", "bfloat16"))
    assert half.bytes < 0.55 * full.bytes
    again = load(half.path)
    assert all(array.dtype == np.float32 for array in again.weights.values())
    for name, array in model.weights.items():
        assert np.abs(again.weights[name] - array).max() <= 2**-8 * np.abs(array).max()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    dense = CASES["v1 dense"]
    with pytest.raises(NetworkError, match=r"output_stride=8(.|\n)*convert it without"):
        convert(Model(dense, random_weights(dense)), tmp_path / "dense.safetensors")
    with pytest.raises(NetworkError, match="no storage called 'int8'"):
        convert(load("fashion"), tmp_path / "int8.safetensors", storage="int8")  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="no outputs and no size"):
        convert(load("fashion"), tmp_path / "points.safetensors", end_points=["block1"])
    with pytest.raises(NetworkError, match="holds float32"):
        convert(load("fashion"), tmp_path / "half.onnx", storage="bfloat16")
    assert not list(tmp_path.iterdir())


def changed(change: Any) -> dict[str, str]:
    told = json.loads(describe(CASES["torch"], VGG_224, ["a"] * 7)[KEY])
    change(told)
    return {KEY: json.dumps(told)}


BROKEN = {
    "a later version": (lambda t: t.update(version=2), "version 2, and up to 1"),
    "no version": (lambda t: t.pop("version"), "not what resforward writes"),
    "a field too many": (lambda t: t["network"]["family"].update(se=True), "Family has the fields"),
    "a field too few": (lambda t: t["preprocess"].pop("crop"), "Preprocess has the fields"),
    "a word that is none": (lambda t: t["network"]["family"].update(post="gelu"), "'gelu' is no"),
    "a number for a word": (lambda t: t["network"]["family"].update(name=3), "3 is no str"),
    "true for a number": (lambda t: t["network"].update(num_classes=True), "True is no int"),
    "another kind of unit": (lambda t: t["network"]["blocks"][0].__setitem__(1, "dense"), "'dense'"),
    "no units": (lambda t: t["network"]["blocks"][0].__setitem__(2, []), "no list of units"),
    "too many units": (lambda t: t["network"]["blocks"][0].__setitem__(2, [[1, 1, 1]] * 5000), "more than 4096"),
    "a huge stride": (lambda t: t["network"]["blocks"][0][2][0].__setitem__(2, 1 << 62), "describes no network"),
    "a root block of no width": (lambda t: t["network"]["stem"].update(widths=[]), "describes no network"),
    "a root block that stands still": (lambda t: t["network"]["stem"].update(stride=0), "describes no network"),
    "a root block that goes back": (lambda t: t["network"]["stem"].update(stride=-1), "describes no network"),
    "a pool that goes back": (lambda t: t["network"]["stem"]["pool"].update(stride=-1), "describes no network"),
    "a pool of no pixels": (lambda t: t["network"]["stem"]["pool"].update(kernel=0), "describes no network"),
    "a huge pool": (lambda t: t["network"]["stem"]["pool"].update(kernel=1 << 62), "describes no network"),
    "a negative epsilon": (lambda t: t["network"]["family"].update(weight_epsilon=-1.0), "describes no network"),
    "labels of numbers": (lambda t: t.update(labels=[1]), "1 is no str"),
    "a list for the network": (lambda t: t.update(network=[]), "not what resforward writes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_nothing_else_is_believed(case: str) -> None:
    change, words = BROKEN[case]
    with pytest.raises(CheckpointError) as error:
        understand(changed(change), "my.safetensors")
    assert words in str(error.value)
    assert "my.safetensors" in str(error.value)


@pytest.mark.parametrize("text", ["", "[", "null", "{}", "[" * 100_000, '{"version": 1e400}'])
def test_metadata_that_is_no_description_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="not what resforward writes"):
        understand({KEY: text}, "my.safetensors")


def test_weights_that_the_network_does_not_have_are_told(tmp_path: Path) -> None:
    network = CASES["torch"]
    weights = random_weights(network)
    weights["logits/biases"] = weights["logits/biases"][:-1]
    path = tmp_path / "model.safetensors"
    path.write_bytes(own_bytes(weights, describe(network, None, None), "float32"))
    with pytest.raises(CheckpointError, match=r"logits/biases: expected \(7,\), found \(6,\)"):
        load(path)


def test_metadata_of_others_is_kept_and_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(own_bytes({"x": np.ones(3, np.float32)}, {"format": "pt"}, "float32"))
    assert read_checkpoint(path).metadata == {"format": "pt"}
    assert understand({"format": "pt"}, "other.safetensors") is None
