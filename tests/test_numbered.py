"""Layers without names have the numbers that TensorFlow gave them, and nothing else is taken for a network of Keras."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from resforward import CheckpointError, load
from resforward.checkpoints.keras_h5 import variables_of
from resforward.conclude import conclude
from resforward.numbered import with_names

Tensors = dict[str, NDArray[np.float32]]
NUMBERED = json.loads((Path(__file__).parent / "golden" / "keras" / "numbered.json").read_bytes())
NUMBERED.pop("versions")
VALUES = {kind: variables_of(kind) for kind in ("conv2d", "batch_normalization", "dense")}
# What the file calls a list of layers, and the step of their numbers, by versions of TensorFlow.
CONTAINERS = {"layers/": 1, "_layer_checkpoint_dependencies/": 2}


def numbered(name: str, owner: str = "layers/", step: int = 1) -> tuple[Tensors, Tensors]:
    """Every variable of a network by its path and by its name, each of one value of its own."""
    by_path, by_name = {}, {}
    for kind, layers in NUMBERED[name].items():
        for place, (layer, shapes) in enumerate(layers):
            path = f"{owner}{kind}_{place * step}" if place else f"{owner}{kind}"
            for variable, shape in enumerate(shapes):
                array = np.broadcast_to(np.float32(len(by_path)), shape)
                by_path[f"{path}/vars/{variable}"] = array
                by_name[f"{owner}{layer}/{VALUES[kind][variable]}"] = array
    return by_path, by_name


@pytest.mark.parametrize("name", NUMBERED)
@pytest.mark.parametrize("owner", CONTAINERS)
def test_every_variable_has_the_name_that_tensorflow_knows_it_by(name: str, owner: str) -> None:
    by_path, by_name = numbered(name, owner, CONTAINERS[owner])
    named, evidence = with_names(by_path, "a.weights.h5")
    assert named.keys() == by_name.keys()
    assert all(named[key] is array for key, array in by_name.items())
    found = conclude(named, "a.weights.h5")
    assert (found.network.name, found.scope) == (name.lower(), owner)
    assert name.lower() in evidence[0]


@pytest.mark.parametrize("name", ["ResNet50", "ResNet101V2"])
def test_a_network_inside_another_model(name: str) -> None:
    """Its own classifier is gone; what the model around it has beside it keeps its path."""
    inside, names = numbered(name, "layers/functional/layers/")
    inside = {path: array for path, array in inside.items() if "dense" not in path}
    around = {"layers/conv2d/vars/0": np.zeros((1, 1, 3, 3), np.float32)}
    around["layers/dense/vars/0"] = np.zeros((2048, 9), np.float32)
    named, _ = with_names(inside | around, "a.weights.h5")
    assert named.keys() == {key for key in names if "predictions" not in key} | around.keys()
    assert conclude(named, "a.weights.h5").network.num_classes == 0


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: array for name, array in tensors.items() if name not in names}


def misfits() -> dict[str, tuple[Tensors, str]]:
    """Files that are nearly ResNet50's, and what is said of them."""
    whole, _ = numbered("ResNet50")
    conv2, bias2 = "layers/conv2d_2/vars/0", "layers/conv2d_2/vars/1"
    layer2 = without(whole, conv2, bias2)
    return {
        "a layer less": (layer2, "52 conv2d"),
        "a layer more": (whole | {"layers/conv2d_53/vars/0": whole[conv2]}, "54 conv2d"),
        "no bias": (without(whole, bias2), "conv2d_2 has (3, 3, 64, 64), expected (3, 3, 64, 64) and (64,)"),
        "a gap": (without(whole, conv2), "conv2d_2 has nothing, expected (3, 3, 64, 64) and (64,)"),
        "another order": (
            whole | {conv2: whole["layers/conv2d_3/vars/0"], "layers/conv2d_3/vars/0": whole[conv2]},
            "conv2d_2 has (1, 1, 64, 256) and (64,), expected (3, 3, 64, 64) and (64,) for conv2_block1_2_conv",
        ),
        "another class": (whole | {"layers/normalization/vars/0": whole[bias2]}, "has variables of normalization"),
        "a hidden layer": (whole | {"layers/dense_1/vars/0": whole["layers/dense/vars/0"]}, "dense_1 has (2048, 5)"),
        "a classifier of three dimensions": (
            whole | {"layers/dense/vars/0": np.zeros((1, 2048, 5), np.float32)},
            "has variables of dense",
        ),
        "no numbers at all": (whole | {"layers/conv2d/vars/0": np.zeros((), np.float32)}, "53 conv2d"),
        "written otherwise": (layer2 | {"layers/conv2d_02/vars/0": whole[conv2]}, "1 conv2d_02"),
    }


@pytest.mark.parametrize("case", misfits())
def test_anything_else_is_refused_with_the_reason(case: str) -> None:
    tensors, message = misfits()[case]
    with pytest.raises(CheckpointError, match="layers without names") as caught:
        with_names(tensors, "a.weights.h5")
    assert message in str(caught.value)
    assert 'model.save("x.keras")' in str(caught.value)


def test_files_with_names_are_left_alone() -> None:
    tensors = {"conv1_conv/kernel": np.zeros((7, 7, 3, 64), np.float32)}
    assert with_names(tensors, "a.weights.h5") == (tensors, ())


def test_it_is_read_from_a_file(tmp_path: Path) -> None:
    """As TensorFlow 2.15 writes it."""
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for path, array in numbered("ResNet50V2")[0].items():
            file[path] = array
    model = load(tmp_path / "model.weights.h5")
    assert (model.network.name, model.network.num_classes, model.unused) == ("resnet50v2", 5, ())
    assert any("its layers have the shapes and the order" in line for line in model.evidence)
