"""End points by other libraries' names; tests/oracles/check_families.py checks that they are the same tensors."""

from __future__ import annotations

import numpy as np
import pytest
from plain_networks import CASES

from resforward import NETWORKS, EndPointError, build
from resforward.aliases import aliases

NAMES = {  # of what the case's library calls so
    "Keras v1": {
        "conv1_relu": "conv1",
        "pool1_pool": "pool1",
        "conv2_block1_0_bn": "block1/unit_1/bottleneck_v1/shortcut",
        "conv2_block1_1_relu": "block1/unit_1/bottleneck_v1/conv1",
        "conv3_block2_3_bn": "block2/unit_2/bottleneck_v1/conv3",
        "conv3_block2_out": "block2/unit_2/bottleneck_v1",
        "avg_pool": "global_pool",
    },
    "Keras v2": {
        "conv1_conv": "conv1",
        "conv2_block2_preact_relu": "block1/unit_2/bottleneck_v2/preact",
        "conv2_block1_0_conv": "block1/unit_1/bottleneck_v2/shortcut",
        "conv2_block1_3_conv": "block1/unit_1/bottleneck_v2/conv3",
        "post_relu": "postnorm",
    },
    "torch": {
        "act1": "conv1",
        "maxpool": "pool1",
        "layer1": "block1",
        "layer2.0": "block2/unit_1/bottleneck_v1",
        "layer2.0.downsample": "block2/unit_1/bottleneck_v1/shortcut",
        "layer2.0.downsample.1": "block2/unit_1/bottleneck_v1/shortcut",
        "layer2.1.act2": "block2/unit_2/bottleneck_v1/conv2",
        "layer2.1.bn3": "block2/unit_2/bottleneck_v1/conv3",
        "avgpool": "global_pool",
        "fc": "logits",
    },
    "timm v1d": {"conv1.2": "conv1/conv1", "act1": "conv1/conv3"},
    "timm v2": {
        "stem.conv": "conv1",
        "stages.0": "block1",
        "stages.1.blocks.0.norm1": "block2/unit_1/bottleneck_v2/preact",
        "stages.1.blocks.0.norm2": "block2/unit_1/bottleneck_v2/conv1",
        "stages.1.blocks.0.downsample": "block2/unit_1/bottleneck_v2/shortcut",
        "norm": "postnorm",
        "head.fc": "logits",
    },
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_of_another_library_is_the_end_point(case: str) -> None:
    assert CASES[case].canonical(NAMES[case]) == NAMES[case]


@pytest.mark.parametrize("case", CASES)
def test_every_alias_is_an_end_point_and_no_other_s_name(case: str) -> None:
    network = CASES[case]
    found, points = aliases(network), network.end_points(64, 64)
    for alias, name in found.known.items():
        assert name in points, alias
        assert alias not in points
    assert not set(found.folded) & set(found.known)
    assert set(found.folded.values()) <= set(found.known)


def test_any_network_answers_to_them() -> None:
    model = build("fashion")
    images = np.random.default_rng(0).standard_normal((1, 28, 28, 1), np.float32)
    found = model.forward(images, ["layer1.0.act1", "stages.2", "avg_pool"])
    assert list(found) == ["layer1.0.act1", "stages.2", "avg_pool"]
    wanted = model.forward(images, ["block1/unit_1/bottleneck_v2/conv1", "block3", "global_pool"])
    for tensor, expected in zip(found.values(), wanted.values(), strict=True):
        assert np.array_equal(tensor, expected)


def test_what_is_folded_away_is_said_so() -> None:
    with pytest.raises(EndPointError, match=r"`layer1.0.conv1` is computed together .* `layer1.0.act1`"):
        NETWORKS["resnet_v1_50"].canonical(["layer1.0.conv1"])


def test_what_a_network_lacks_has_no_alias() -> None:
    with pytest.raises(EndPointError):
        CASES["torch"].canonical(["norm"])  # no postnorm
    with pytest.raises(EndPointError):
        CASES["features"].canonical(["fc"])  # no classifier


def test_stages_are_the_last_at_their_stride() -> None:
    assert NETWORKS["resnet_v2_50"].stages == {
        4: "block1/unit_2/bottleneck_v2", 8: "block2/unit_3/bottleneck_v2", 16: "block3/unit_5/bottleneck_v2",
        32: "block4/unit_3/bottleneck_v2",
    }  # fmt: skip
    assert CASES["torch"].stages == {
        4: "block1/unit_2/bottleneck_v1", 8: "block2/unit_2/bottleneck_v1", 16: "block3/unit_2/bottleneck_v1",
    }  # fmt: skip
