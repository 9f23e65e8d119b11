"""Networks of every family: the engine against the reference, at every end point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plain_networks import CASES, SIZES, random_images, random_weights
from test_model import TOLERANCE, each_isa, same_bits

from resforward import Model, load
from resforward.aliases import aliases
from resforward.families import BIT, KERAS_V1, KERAS_V2, TIMM_V2, TIMM_V2D, TIMM_V2D_GN, TORCH_V1, TORCH_V1D
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


# What each file of weights computes: an .npz of the library's own.
GOLDENS = {path.name: path.stem for path in sorted(GOLDEN.glob("*.pth"))} | {
    "keras_v1_weights.h5": "keras_v1",
    "keras_v1_no_top.keras": "keras_v1_no_top",
    "keras_v2.h5": "keras_v2",
    "keras_v2_no_top.weights.h5": "keras_v2_no_top",
}


def test_every_family_has_a_golden_that_says_who_made_it() -> None:
    families = {load(GOLDEN / file).network.family for file in GOLDENS}
    assert families == {TORCH_V1, TORCH_V1D, TIMM_V2, TIMM_V2D, TIMM_V2D_GN, BIT, KERAS_V1, KERAS_V2}
    for computed in GOLDENS.values():
        with np.load(GOLDEN / f"{computed}.npz") as golden:
            versions = str(golden["versions"]).split(", ")
        assert [version.split()[0] for version in versions] == ["torch", "torchvision", "timm", "keras", "h5py"]


@each_isa
@pytest.mark.parametrize("file", GOLDENS)
def test_golden_networks_of_the_libraries_themselves(file: str, isa: str) -> None:
    """Every end point that a layer of the library has, where the pool reads maps of even sides and of odd ones."""
    model = load(GOLDEN / file, isa=isa)
    known = aliases(model.network).known
    with np.load(GOLDEN / f"{GOLDENS[file]}.npz") as golden:
        stored = {key: golden[key] for key in golden.files if key != "versions"}
    sizes = {key.partition("/")[0] for key in stored}
    assert len(sizes) == 2
    for size in sizes:
        expected = {key.partition("/")[2]: array for key, array in stored.items() if key.startswith(f"{size}/")}
        images = expected.pop("images")
        if not model.network.num_classes:
            del expected["logits"]  # it is the last layer's tensor once more
        assert {unit.name for unit in model.network.units} <= {known.get(name) for name in expected}
        found = model.forward(images, list(expected))
        for name, wanted in expected.items():
            difference = np.abs(found[name].reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()
            assert difference <= TOLERANCE, (size, name)
