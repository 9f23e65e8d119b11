"""Networks of every family: the engine against the reference, at every end point."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_networks import CASES, SIZES, random_images, random_weights
from test_model import TOLERANCE, each_isa, same_bits

from resforward import Model, load
from resforward.aliases import aliases
from resforward.reference import forward

GOLDEN = Path(__file__).parent / "golden" / "families"

# A group of few values may be nearly constant, and making it normal shows every rounding: no tiny maps of those.
PAIRS = [
    (case, size)
    for case, network in CASES.items()
    for size in [*SIZES, (1, 1), (2, 5)]
    if network.family.norm == "bn" or min(size) > 16
]


@each_isa
@pytest.mark.parametrize(("case", "size"), PAIRS)
def test_every_end_point_is_the_reference_s(case: str, size: tuple[int, int], isa: str) -> None:
    network = CASES[case]
    weights, images = random_weights(network), random_images(network, size, batch=2)
    model = Model(network, weights, isa=isa)
    expected = forward(network, weights, images, np.float64)[1]
    found = model.forward(images)
    assert list(found) == list(expected)
    largest = 0.0
    for name, tensor in found.items():
        largest = max(largest, float(np.abs(expected[name]).max()))
        assert np.abs(tensor - expected[name]).max() <= TOLERANCE * largest, name


@pytest.mark.parametrize("case", CASES)
def test_an_image_has_its_bits_in_any_batch_on_any_number_of_threads(case: str) -> None:
    network = CASES[case]
    weights, images = random_weights(network), random_images(network, (33, 47), batch=3)
    alone = [Model(network, weights, threads=1).forward(images[i : i + 1]) for i in range(3)]
    for threads in (1, 2, 5):
        together = Model(network, weights, threads=threads).forward(images)
        for i in range(3):
            assert same_bits({name: tensor[i : i + 1] for name, tensor in together.items()}, alone[i]), (threads, i)


TORCH = [(f"{path.name}", path.stem) for path in sorted(GOLDEN.glob("*.pth"))]


@pytest.mark.parametrize(("file", "computed"), [*TORCH, ("big_transfer.npz", "bit")], ids=lambda name: name)
def test_golden_networks_of_the_libraries_themselves(file: str, computed: str) -> None:
    """Every tensor that a module of the library has under a name that is known here."""
    model = load(GOLDEN / file)
    with np.load(GOLDEN / f"{computed}.npz") as golden:
        expected = {name: golden[name] for name in golden.files}
    images = expected.pop("images")
    names = [name for name in expected if name in aliases(model.network).known or name == "logits"]
    assert len(names) > 10
    found = model.forward(images, names)
    for name in names:
        wanted = expected[name].transpose(0, 2, 3, 1) if expected[name].ndim == 4 else expected[name]
        assert np.abs(found[name].reshape(wanted.shape) - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


def test_golden_network_of_keras_of_2015(tmp_path: Path) -> None:
    """Every end point, from the file as Keras 2 wrote it and under the names of Keras 1."""
    words = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(GOLDEN / "keras_2015.h5") as new, h5py.File(tmp_path / "keras_1.h5", "w") as old:
        old.attrs["layer_names"] = new.attrs["layer_names"]
        for layer, group in new.items():
            names = [name.decode() if isinstance(name, bytes) else name for name in group.attrs["weight_names"]]
            leaves = [name.rpartition("/")[2] for name in names]
            theirs = [f"{layer}_{words.get(leaf, leaf)}_1:0" for leaf in leaves]
            old.create_group(layer).attrs["weight_names"] = [name.encode() for name in theirs]
            for name, their in zip(names, theirs, strict=True):
                old[layer][their] = group[name][()]
    with np.load(GOLDEN / "keras_2015.npz") as golden:
        expected = {name: golden[name] for name in golden.files if name != "versions"}
    images = expected.pop("images")
    model = load(GOLDEN / "keras_2015.h5")
    assert model.network.family.epsilon == 1e-3
    found = model.forward(images)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert np.abs(found[name].reshape(wanted.shape) - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name
    assert same_bits(load(tmp_path / "keras_1.h5").forward(images), found)
