"""From a checkpoint's names to a network: what is concluded, what is ignored, and every misfit at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden.networks import GOLDENS, SMALL, checkpoint

from resforward import NETWORKS, Block, Network, bottleneck, load, read_checkpoint, resnet_v1, resnet_v2
from resforward.conclude import conclude
from resforward.errors import CheckpointError
from resforward.families import Stem
from resforward.names import find_scope, rename
from resforward.resnet import resnet_block

Tensors = dict[str, np.ndarray]

TINY = [Block("block1", bottleneck, [(8, 2, 1), (8, 2, 2)]), Block("block2", bottleneck, [(12, 3, 1)])]


def stored(network: Network, scope: str = "") -> Tensors:
    """A checkpoint of a network without its bytes: arrays of one value, seen in every shape."""
    zero = np.zeros((), np.float32)
    return {scope + name: np.broadcast_to(zero, shape) for name, shape in network.variables.items()}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fashion"])
@pytest.mark.parametrize("scope", ["{}/", "", "tower/model/{}/"])
def test_a_published_network_is_concluded_whole(name: str, scope: str) -> None:
    network, scope = NETWORKS[name], scope.format(name)
    conclusion = conclude(stored(network, scope), "file.ckpt")
    assert conclusion.network == network
    assert conclusion.scope == scope
    assert find_scope(stored(network, scope), network)[0] == scope


@pytest.mark.parametrize("make", [resnet_v1, resnet_v2])
@pytest.mark.parametrize("classes", [0, 1, 1000, 1001])
@pytest.mark.parametrize("root_block", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_classes_channels_and_root_block_are_concluded(
    make: Callable[..., Network], classes: int, root_block: bool, channels: int
) -> None:
    network = make(TINY, classes, include_root_block=root_block, input_channels=channels, name="mine")
    assert conclude(stored(network, "mine/"), "file.ckpt").network == network


def test_a_small_root_block_is_concluded() -> None:
    stem = Stem(3, 1, (20,), bias=True, norm=False, relu=False, pool=None)
    network = resnet_v2(TINY, 10, stem=stem, name="mine")
    assert conclude(stored(network, "mine/"), "file.ckpt").network == network


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    blocks = [resnet_block(f"block{i}", 1, 1, 1 if i == 12 else 2) for i in range(1, 13)]
    network = resnet_v2(blocks, 10, name="mine")
    tensors = stored(network, "mine/")
    assert conclude(dict(sorted(tensors.items())), "file.ckpt").network == network


def test_evidence_says_from_what() -> None:
    evidence = "\n".join(conclude(stored(NETWORKS["resnet_v1_101"], "x/"), "file.ckpt").evidence)
    for words in ("slim v1", "bottleneck_v1", "3, 4, 23, 3, as in resnet_v1_101", "1000 classes", "x/logits/biases"):
        assert words in evidence


BYSTANDERS = [
    "global_step",
    "beta1_power",
    "resnet_v2/mean_rgb",
    "resnet_v2/conv1/weights/Momentum",
    "resnet_v2/conv1/weights/RMSProp",
    "resnet_v2/conv1/weights/RMSProp_1",
    "resnet_v2/block1/unit_1/bottleneck_v2/conv1/weights/Adam",
    "resnet_v2/block1/unit_1/bottleneck_v2/conv1/weights/Adam_1",
    "resnet_v2/block1/unit_1/bottleneck_v2/conv1/weights/ExponentialMovingAverage",
]


def test_what_training_leaves_behind_is_ignored_and_other_extras_are_reported() -> None:
    network = resnet_v2(TINY, 10)
    extras = {name: np.zeros(3, np.float32) for name in [*BYSTANDERS, "resnet_v2/aux/weights", "other/weights"]}
    tensors = stored(network, "resnet_v2/") | extras
    conclusion = conclude(tensors, "file.ckpt")
    assert conclusion.network == network
    weights, unused = rename(tensors, conclusion.network, conclusion.scope, "file.ckpt")
    assert set(weights) == set(network.variables)
    assert unused == ("other/weights", "resnet_v2/aux/weights")


@pytest.mark.parametrize("name", [name for name in GOLDENS if "batch" in name or "no_classifier" in name])
def test_slim_s_own_files_are_concluded(name: str) -> None:
    held = conclude(read_checkpoint(checkpoint(name)), name).network
    assert held == GOLDENS[name]
    assert load(checkpoint(name)).unused == ()


def misfit(tensors: Tensors, network: Network, scope: str = "mine/") -> CheckpointError:
    held = conclude(tensors, "file.ckpt").network
    with pytest.raises(CheckpointError, match=r"file\.ckpt does not fit") as caught:
        rename(tensors, network, scope, "file.ckpt", held)
    return caught.value


def test_every_misfit_is_told_at_once_with_both_sides() -> None:
    network = resnet_v2(TINY, 10, name="mine")
    tensors = stored(network, "mine/")
    unit = "mine/block1/unit_2/bottleneck_v2"
    del tensors[f"{unit}/conv2/weights"]
    tensors[f"{unit}/conv2/BatchNorm/gamma"] = np.zeros(5, np.float32)
    tensors["mine/postnorm/beta"] = np.zeros(12, np.int64)
    error = misfit(tensors, network)
    assert f"3 of {len(network.variables)} variables" in error.message
    assert error.found[0].startswith(f"{unit}/conv2/weights: expected (3, 3, 2, 2), found none")
    assert error.found[1:] == (
        f"{unit}/conv2/BatchNorm/gamma: expected (2,), found (5,)",
        "mine/postnorm/beta: expected float32, found int64",
    )


def test_a_misspelt_variable_is_told_with_the_nearest() -> None:
    network = resnet_v2(TINY, 10, name="mine")
    tensors = stored(network, "mine/")
    tensors["mine/postnorm/betta"] = tensors.pop("mine/postnorm/beta")
    assert "the nearest is `mine/postnorm/betta`" in misfit(tensors, network).found[0]


@pytest.mark.parametrize(
    ("held", "asked", "words"),
    [
        (resnet_v2(TINY, 1001, name="mine"), resnet_v2(TINY, 1000), "`background`: pass num_classes=1001"),
        (resnet_v2(TINY, 1000, name="mine"), resnet_v2(TINY, 1001), "`background`: pass num_classes=1000"),
        (resnet_v2(TINY, 10, name="mine"), resnet_v2(TINY, 7), "classes 10 (asked for: 7)"),
        (resnet_v1(TINY, 10, name="mine"), resnet_v2(TINY, 10), "family slim v1 (asked for: slim v2)"),
        (NETWORKS["resnet_v2_50"], NETWORKS["resnet_v2_101"], "units [3, 4, 6, 3] (asked for: [3, 4, 23, 3])"),
        (resnet_v2(TINY, 10, input_channels=1, name="mine"), resnet_v2(TINY, 10), "input channels 1 (asked for: 3)"),
    ],
)
def test_what_the_file_holds_instead_is_said(held: Network, asked: Network, words: str) -> None:
    error = misfit(stored(held, f"{held.name}/"), asked, f"{held.name}/")
    assert error.help is not None
    assert words in error.help
    assert f"the file holds {held.name}" in error.help


def test_weights_of_50_layers_for_101_name_what_is_missing() -> None:
    error = misfit(stored(NETWORKS["resnet_v2_50"], "a/"), NETWORKS["resnet_v2_101"], "a/")
    # Units 7 to 23 of block3: three convolutions, the bias of one, and three norms of four variables each.
    assert len(error.found) == 17 * (3 + 1 + 3 * 4)
    assert all("block3/unit_" in line and "found none" in line for line in error.found)


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_cut_off_file_says_what_is_missing(cut: int) -> None:
    network = resnet_v2(SMALL, 10, name="mine")
    names = sorted(stored(network, "mine/"))
    kept = {name: array for name, array in stored(network, "mine/").items() if name in names[:cut]}

    def take() -> None:
        conclusion = conclude(kept, "file.ckpt")
        rename(kept, network, conclusion.scope, "file.ckpt", conclusion.network)

    with pytest.raises(CheckpointError) as caught:
        take()
    text = str(caught.value)
    assert "file.ckpt" in text
    assert "missing" in text or "found none" in text


UNIT = "r/block1/unit_1/bottleneck_v2"
NONE_AT_ALL: dict[str, tuple[Tensors, str]] = {
    "nothing": ({}, "no network that is known here"),
    "another network": ({"features.0.weight": np.zeros(3)}, "no network that is known here"),
    "two scopes": (stored(resnet_v2(TINY, 5), "a/") | stored(resnet_v2(TINY, 5), "b/"), "holds 2 networks"),
    "two families": (stored(resnet_v2(TINY, 5)) | stored(resnet_v1(TINY, 5)), "holds 2 networks"),
    "a lonely norm": ({f"{UNIT}/preact/beta": np.zeros(4)}, "is missing"),
    "scalars": ({f"{UNIT}/conv1/weights": np.zeros(()), f"{UNIT}/conv3/weights": np.zeros(())}, "describes no network"),
    "no channels": (
        {f"{UNIT}/conv1/weights": np.zeros((1, 1, 4, 0)), f"{UNIT}/conv3/weights": np.zeros((1, 1, 0, 8))},
        "describes no network",
    ),
    "unit 0": ({"r/block1/unit_0/bottleneck_v2/conv1/weights": np.zeros((1, 1, 4, 4))}, "describes no network"),
    "unit a million": ({"r/block1/unit_1000000/bottleneck_v2/conv1/weights": np.zeros((1, 1, 4, 4))}, "unit_1000000"),
    "unit of 5000 digits": (
        {f"r/block1/unit_{'9' * 5000}/bottleneck_v2/conv1/weights": np.zeros((1, 1, 4, 4))},
        "no network that is known here",
    ),
    "block of 5000 digits": (
        {f"r/{'9' * 5000}/unit_1/bottleneck_v2/conv1/weights": np.zeros((1, 1, 4, 4))},
        "holds no network",
    ),
    "superscripts": ({"r/²/unit_1/bottleneck_v2/conv1/weights": np.zeros((1, 1, 4, 4))}, "is missing"),
}


@pytest.mark.parametrize("case", NONE_AT_ALL)
def test_what_holds_no_network_is_refused(case: str) -> None:
    tensors, message = NONE_AT_ALL[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        conclude(tensors, "file.ckpt")
    assert "file.ckpt" in str(caught.value)


def test_weights_come_as_float32_in_order() -> None:
    network = resnet_v2(TINY, 10)
    tensors: dict[str, Any] = {
        name: np.asfortranarray(np.random.default_rng(0).normal(size=shape)).astype(">f8")
        for name, shape in network.variables.items()
    }
    weights, unused = rename(tensors, network, "", "file.ckpt")
    assert unused == ()
    for name, array in weights.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensors[name].astype(np.float32))
