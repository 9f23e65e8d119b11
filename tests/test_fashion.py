"""The built-in model labels what its card says: this engine on the 10,000 test pictures of Fashion-MNIST."""

from __future__ import annotations

import gzip
import os
import pathlib

import numpy as np
import pytest
from safetensors import safe_open

import resforward as rf
from resforward.labels import FASHION_10

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = pathlib.Path(rf.__file__).parent
DATA = pathlib.Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))  # Debian's folder
SAMPLES = sorted((ROOT / "examples" / "samples").glob("*.png"))


def read_idx(name: str) -> np.ndarray:
    """An IDX file: two zero bytes, the type (8: uint8), the rank, the shape in big-endian words, the values."""
    data = gzip.decompress((DATA / name).read_bytes())
    assert data[:3] == b"\0\0\x08"
    shape = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


@pytest.fixture(scope="module")
def model() -> rf.Model:
    return rf.load("fashion")


def test_accuracy_is_what_the_card_says(model: rf.Model) -> None:
    if not DATA.is_dir() and not os.environ.get("CI"):
        pytest.skip("needs Fashion-MNIST: apt install dataset-fashion-mnist, or FASHION_MNIST=folder")
    pictures, classes = read_idx("t10k-images-idx3-ubyte.gz"), read_idx("t10k-labels-idx1-ubyte.gz")
    assert len(pictures) == len(classes) == 10_000
    batch = np.stack([model.preprocess(picture) for picture in pictures])
    correct = int((model(batch).argmax(axis=1) == classes).sum())
    with safe_open(PACKAGE / "builtin" / "fashion.safetensors", "numpy") as file:
        stated = file.metadata()["top1"]
    # The card's figure comes from the trainer's forward pass: a picture between two classes may fall the other way.
    assert abs(correct - 10_000 * float(stated)) <= 2
    assert correct >= 9_350
    assert f"{100 * float(stated):.2f} %" in (PACKAGE / "builtin" / "fashion.md").read_text()


def test_there_is_a_sample_of_every_class() -> None:
    assert len(SAMPLES) == len(FASHION_10)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_labelled_correctly(model: rf.Model, path: pathlib.Path) -> None:
    (best,) = model.predict(path, top=1)
    words = path.stem.replace("_", " ").lower()
    assert best.label.lower().replace("/", " ").startswith(words) or words.startswith(
        best.label.lower().replace("/", " ")
    )
    assert best.probability > 0.5


def test_the_file_is_small_enough_for_the_wheel() -> None:
    assert (PACKAGE / "builtin" / "fashion.safetensors").stat().st_size < 2_000_000
