"""Networks under the names that they were first published with: Keras of 2015, and BiT."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from test_model import TOLERANCE, same_bits

from resforward import load

GOLDEN = Path(__file__).parent / "golden" / "families"


def test_keras_of_2015_at_every_end_point() -> None:
    with np.load(GOLDEN / "keras_2015.npz") as golden:
        expected = {name: golden[name] for name in golden.files if name != "versions"}
    images = expected.pop("images")
    model = load(GOLDEN / "keras_2015.h5")
    assert model.network.family.epsilon == 1e-3
    found = model.forward(images)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert np.abs(found[name].reshape(wanted.shape) - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


def test_the_same_under_the_names_of_keras_1(tmp_path: Path) -> None:
    """What Keras 1.2.2 calls weights: keras/layers/convolutional.py, core.py, normalization.py."""
    words = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(GOLDEN / "keras_2015.h5") as new, h5py.File(tmp_path / "keras_1.h5", "w") as old:
        old.attrs["layer_names"] = new.attrs["layer_names"]
        for layer, group in new.items():
            names = [str(name) for name in group.attrs["weight_names"]]
            leaves = [name.rpartition("/")[2] for name in names]
            theirs = [f"{layer}_{words.get(leaf, leaf)}_1:0" for leaf in leaves]
            old.create_group(layer).attrs["weight_names"] = [name.encode() for name in theirs]
            for name, their in zip(names, theirs, strict=True):
                old[layer][their] = group[name][()]
    images = np.random.default_rng(0).standard_normal((1, 33, 18, 3), np.float32)
    found = load(tmp_path / "keras_1.h5").forward(images)
    assert same_bits(found, load(GOLDEN / "keras_2015.h5").forward(images))


def test_bit_as_timm_reads_it() -> None:
    """The same weights by the names of both; timm itself has read the one into the other."""
    images = np.random.default_rng(0).standard_normal((1, 33, 38, 3), np.float32)
    original = load(GOLDEN / "big_transfer.npz")
    assert original.unused == ()
    assert same_bits(original.forward(images), load(GOLDEN / "bit.pth").forward(images))
