"""Checkpoints as Keras, torch and timm call them: the same network comes back, from names and shapes alone."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_networks import CASES, GROUPED, random_weights

from resforward import Block, CheckpointError, basic, bottleneck
from resforward.conclude import conclude
from resforward.dialects import BIG_TRANSFER, DIALECTS, KERAS, KERAS_2015, TIMM, TIMM_V1D, TORCH, Dialect
from resforward.families import KERAS_V1_2015, KERAS_V2, TIMM_V2, TIMM_V2D_GN, TORCH_V1
from resforward.names import find_scope, rename, standardise
from resforward.published import block_strides
from resforward.resnet import resnet

Tensors = dict[str, NDArray[np.float32]]

HELD: dict[str, tuple[Dialect, str]] = {  # and the family that is concluded
    "Keras v1 of 2015": (KERAS_2015, "Keras v1 of 2015"),
    "BiT, its own names": (BIG_TRANSFER, "BiT"),
    "Keras v1": (KERAS, "Keras v1"),
    "Keras v2": (KERAS, "Keras v2"),
    "torch": (TORCH, "torch v1.5"),
    "torch, basic units": (TORCH, "torch v1.5"),
    "timm v1d": (TIMM_V1D, "timm v1d"),
    "timm v2": (TIMM, "timm v2"),
    "timm v2, basic units": (TIMM, "timm v2"),
    "timm v2d": (TIMM, "timm v2d"),
    "BiT": (TIMM, "BiT"),
}
NETWORKS = CASES | {
    "Keras v1 of 2015": replace(CASES["Keras v1"], family=KERAS_V1_2015, epsilon=KERAS_V1_2015.epsilon),
    "BiT, its own names": CASES["BiT"],
}
SCOPES = {"HWIO": ("", "model/"), "OIHW": ("", "module.")}  # of a module inside another, by whose axes they are


def stored(dialect: Dialect, weights: Tensors, scope: str = "") -> Tensors:
    """As the library stores them: its names, its axes, its classifier of two dimensions."""
    tensors = {}
    for name, array in weights.items():
        if name == "logits/weights" and dialect not in (TIMM, BIG_TRANSFER):
            array = array[0, 0].T if dialect.axes == "OIHW" else array[0, 0]
        elif array.ndim == 4 and dialect.axes == "OIHW":
            array = array.transpose(3, 2, 0, 1)
        tensors[scope + dialect.theirs(name)] = array
    assert len(tensors) == len(weights)
    return tensors


@pytest.mark.parametrize(("case", "scope"), [(case, scope) for case in HELD for scope in SCOPES[HELD[case][0].axes]])
def test_the_network_is_concluded_and_its_weights_are_found(case: str, scope: str) -> None:
    (dialect, family), network = HELD[case], NETWORKS[case]
    weights = random_weights(network)
    tensors = stored(dialect, weights, scope)
    if dialect.axes == "OIHW":
        tensors[f"{scope}bn1.num_batches_tracked"] = np.zeros((), np.int64)
    found = conclude(tensors, "a.file")
    assert found.scope == scope
    # What a family's row says of networks not yet made, such as which units project, is not in a checkpoint.
    assert replace(found.network, name="", family=network.family) == replace(network, name="")
    assert found.network.family.name == family
    renamed, unused = rename(tensors, found.network, found.scope, "a.file", dialect=found.dialect)
    assert not unused
    epsilon = network.family.weight_epsilon
    for name, array in weights.items():
        if epsilon is not None and name.endswith("/weights") and name != "logits/weights":
            array = standardise(array, epsilon)
        assert np.array_equal(renamed[name], array), name
    assert find_scope(tensors, network) == (found.scope, found.dialect)


def held(case: str) -> Tensors:
    return stored(HELD[case][0], random_weights(NETWORKS[case]))


def test_published_networks_have_their_names() -> None:
    for family, kind, units, name in (
        (TORCH_V1, basic, (2, 2, 2, 2), "resnet18"),
        (TORCH_V1, bottleneck, (3, 4, 6, 3), "resnet50"),
        (TIMM_V2, bottleneck, (3, 4, 23, 3), "resnetv2_101"),
        (KERAS_V2, bottleneck, (3, 4, 6, 3), "resnet50v2"),
    ):
        expansion = 4 if kind is bottleneck else 1
        strides = block_strides(family, 4)
        blocks = []
        for index, (count, stride) in enumerate(zip(units, strides, strict=True)):
            args = [(64 * expansion << index, 64 << index, 1)] * count
            place = 0 if family.stride_unit == "first" else -1
            args[place] = (*args[place][:2], stride)
            blocks.append(Block(f"block{index + 1}", kind, args))
        network = resnet(family, blocks, 10)
        dialect = TORCH if family is TORCH_V1 else TIMM if family is TIMM_V2 else KERAS
        shapes = {name: np.broadcast_to(np.float32(0), shape) for name, shape in network.variables.items()}
        assert conclude(stored(dialect, shapes), "a.file").network.name == name


def test_relatives_are_refused_by_name() -> None:
    tensors = held("torch")
    name = "layer1.0.conv2.weight"
    grouped = tensors | {name: tensors[name][:, :2]}
    with pytest.raises(CheckpointError, match=r"ResNeXt(.|\n)*layer1\.0\.conv2\.weight reads 2 of 4 channels"):
        conclude(grouped, "a.file")
    squeezed = tensors | {"layer1.0.se.fc1.weight": np.zeros((1, 16, 1, 1), np.float32)}
    found = conclude(squeezed, "a.file")
    with pytest.raises(CheckpointError, match=r"more than a ResNet(.|\n)*layer1\.0\.se\.fc1\.weight"):
        rename(squeezed, found.network, found.scope, "a.file", dialect=found.dialect)


def test_a_network_that_only_begins_as_a_resnet_is_refused() -> None:
    """As HRNet does; what lies beside a ResNet that is a part of something larger is none of its business."""
    tensors = held("torch")
    others = {f"stage2.0.branches.{i}.weight": np.zeros(4, np.float32) for i in range(len(tensors) + 1)}
    found = conclude(tensors | others, "a.file")
    with pytest.raises(CheckpointError, match=r"holds another network(.|\n)*stage2\.0\.branches\.0\.weight"):
        rename(tensors | others, found.network, found.scope, "a.file", dialect=found.dialect)
    part = {f"backbone.{name}": array for name, array in tensors.items()}
    found = conclude(part | others, "a.file")
    assert len(rename(part | others, found.network, found.scope, "a.file", dialect=found.dialect)[1]) == len(others)


WITHOUT = {  # what is missing by its prefix, and what is told to be
    "a Block between others": ("torch", "layer2.", "layer2.0.conv1.weight"),
    "the first Block": ("torch", "layer1.", "layer1.0.conv1.weight"),
    "the root block's convolution": ("torch", "conv1.", "conv1.weight"),
    "a deep root block's first convolution": ("timm v2d", "stem.conv1.", "stem.conv.weight"),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_what_is_missing_is_not_concluded_away(case: str) -> None:
    """Of Blocks of one width, else their shapes would not fit either."""
    of, prefix, missing = WITHOUT[case]
    dialect, _ = HELD[of]
    stem = NETWORKS[of].stem
    assert stem is not None
    units = [Block(f"block{i}", bottleneck, [(64, 16, 1)] * 2) for i in (1, 2, 3)]
    network = resnet(NETWORKS[of].family, units, 7, stem=replace(stem, widths=(*stem.widths[:-1], 64)))
    tensors = stored(dialect, random_weights(network))
    conclude(tensors, "a.file")
    rest = {name: array for name, array in tensors.items() if not name.startswith(prefix)}
    with pytest.raises(CheckpointError, match=f"a.file is incomplete: {re.escape(missing)} is missing"):
        conclude(rest, "a.file")


def test_a_misfit_that_no_option_made_is_not_blamed_on_options() -> None:
    tensors = held("torch")
    found = conclude(tensors, "a.file")
    del tensors["fc.bias"]
    with pytest.raises(CheckpointError, match="part of it was left out"):
        rename(tensors, found.network, found.scope, "a.file", found.network, found.dialect)
    other = replace(found.network, num_classes=9)
    with pytest.raises(CheckpointError, match=r"classes 7 \(asked for: 9\); load without options"):
        rename(held("torch"), other, found.scope, "a.file", found.network, found.dialect)


def test_keras_files_in_other_axes_or_converted_from_caffe_are_refused_by_name() -> None:
    tensors = held("Keras v1 of 2015")
    theano = {name: a.transpose(3, 2, 0, 1) if a.ndim == 4 else a for name, a in tensors.items()}
    with pytest.raises(
        CheckpointError, match=r"the axes of Theano(.|\n)*res2a_branch2b/kernel has shape \(4, 4, 3, 3\)"
    ):
        conclude(theano, "a.file")
    scaled = tensors | {"scale2a_branch2a/gamma": np.ones(4, np.float32)}
    with pytest.raises(CheckpointError, match=r"norms in two layers(.|\n)*scale2a_branch2a/gamma"):
        conclude(scaled, "a.file")
    counted = {name.replace("2b_branch", "2b1_branch"): array for name, array in tensors.items()}
    with pytest.raises(CheckpointError, match=r"counted b1, b2(.|\n)*res2b1_branch"):
        conclude(counted, "a.file")


@pytest.mark.parametrize("average", ["ema.", "model_ema.module."])
def test_of_two_copies_the_help_says_how_to_keep_one(average: str) -> None:
    tensors = held("torch")
    copies = {f"model.{name}": array for name, array in tensors.items()}
    copies |= {f"{average}{name}": array for name, array in tensors.items()}
    with pytest.raises(CheckpointError, match="holds 2 networks") as caught:
        conclude(copies, "a.file")
    assert caught.value.found[1].startswith(f"{average}: torch v1.5")
    kept: dict[str, Tensors] = {}
    line = str(caught.value.help).partition("in PyTorch: ")[2]
    eval(
        line,
        {
            "torch": SimpleNamespace(load=lambda path: copies, save=lambda value, path: kept.update({path: value})),
            "path": "",
            "other_path": "",
        },
    )
    (found,) = (conclude(each, "a.file") for each in kept.values())
    assert (found.scope, found.network.family.name) == ("", "torch v1.5")


def test_of_two_networks_that_no_scope_tells_apart_the_help_is_not_to_keep_everything() -> None:
    both = held("torch") | held("timm v2")
    inside = held("torch") | {f"ema.{name}": array for name, array in held("torch").items()}
    for tensors, line in ((both, "save one network a checkpoint"), (inside, "name.startswith('ema.')")):
        for order in (tensors, dict(reversed(tensors.items()))):
            with pytest.raises(CheckpointError, match="holds 2 networks") as caught:
                conclude(order, "a.file")
            assert line in str(caught.value.help)


def test_what_else_is_in_the_file_is_told_and_left() -> None:
    tensors = held("torch") | {"ema_decay": np.zeros((), np.float32)}
    found = conclude(tensors, "a.file")
    assert rename(tensors, found.network, found.scope, "a.file", dialect=found.dialect)[1] == ("ema_decay",)


def test_misfits_are_told_in_the_file_s_own_names_and_our_axes() -> None:
    tensors = held("torch")
    found = conclude(tensors, "a.file")
    del tensors["layer1.1.bn2.running_var"]
    tensors["fc.weight"] = tensors["fc.weight"][:, :-1]
    with pytest.raises(CheckpointError) as error:
        rename(tensors, found.network, found.scope, "a.file", dialect=found.dialect)
    assert "layer1.1.bn2.running_var: expected (4,), found none" in str(error.value)
    assert "fc.weight: expected (1, 1, 64, 7), found (1, 1, 63, 7)" in str(error.value)


def test_group_norm_with_a_deep_root_block_is_not_bit() -> None:
    """Its weights are plain: standardising them would be wrong, and no name says so but the root block's."""
    network = resnet(TIMM_V2D_GN, GROUPED, 7, stem=replace(TIMM_V2D_GN.stem, kernel=3, widths=(16, 16, 32)))
    assert conclude(stored(TIMM, random_weights(network)), "a.file").network.family is TIMM_V2D_GN


def test_every_word_is_used_once() -> None:
    """Two of our variables with one name of theirs would be read from one tensor."""
    for dialect in DIALECTS:
        ours = [*dialect.outside, *(f"block1/unit_2/bottleneck_v1/{part}" for part in dialect.inside)]
        words = {
            name.replace("GroupNorm", "BatchNorm"): dialect.scope(name) for name in ours if "conv1/conv3/" not in name
        }
        assert len(set(words.values())) == len(words), dialect.name
