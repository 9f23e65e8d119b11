"""Networks of every family: the engine against the reference, at every end point."""

from __future__ import annotations

from pathlib import Path

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


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pth")), ids=lambda path: path.stem)
def test_golden_networks_of_the_libraries_themselves(path: Path) -> None:
    """Every tensor that a module of the library has under a name that is known here."""
    model = load(path)
    with np.load(path.with_suffix(".npz")) as golden:
        expected = {name: golden[name] for name in golden.files}
    images = expected.pop("images")
    names = [name for name in expected if name in aliases(model.network).known or name == "logits"]
    assert len(names) > 10
    found = model.forward(images, names)
    for name in names:
        wanted = expected[name].transpose(0, 2, 3, 1) if expected[name].ndim == 4 else expected[name]
        assert np.abs(found[name].reshape(wanted.shape) - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name
