"""Rows equal what torchvision, timm and Keras make of photographs, to the bit (oracles/reference_preprocess.py)."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import reference_preprocess as oracle
from oracles.reference_preprocess import CASES, FILE, TIMM_CONFIGS, TIMM_TAGS, Case, digest, on_white, picture, sparse

from resforward.preprocess import PRESETS, Preprocess, from_timm

NAMES = sorted(
    [name for name in PRESETS if name not in ("inception_299", "vgg_224", "fashion_28")]  # slim's, and our own
    + list(TIMM_CONFIGS)
)
# The zoo's means are float64: three roundings of numbers below 1, then a division by a std of 0.22 or more.
TOLERANCES = {"onnx_zoo_224": {"rtol": 2**-22, "atol": 3 * 2**-24 / 0.22}}


def row(name: str) -> Preprocess:
    return from_timm(TIMM_CONFIGS[name]) if name in TIMM_CONFIGS else PRESETS[name]


def assert_same(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, **TOLERANCES.get(name, {"rtol": 0, "atol": 0}))


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def test_golden_file_has_every_row_and_says_who_made_it(golden: Mapping[str, np.ndarray]) -> None:
    assert sorted(name for name in golden if "/" not in name and name != "versions") == NAMES
    assert {"torchvision", "timm", "keras", "pillow"} <= {line.split()[0] for line in golden["versions"].tolist()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_a_row_is_the_library_s(golden: Mapping[str, np.ndarray], name: str, case: str) -> None:
    ours, index = row(name)(picture(CASES[case])), list(CASES).index(case)
    assert_same(name, sparse(ours), golden[name][index])  # shows where, before the digest says that
    if name not in TOLERANCES:
        assert digest(ours) == golden[f"{name}/sha256"][index]


@pytest.mark.parametrize("name", TIMM_TAGS)
def test_a_row_is_timm_s_published_config(golden: Mapping[str, np.ndarray], name: str) -> None:
    config: dict[str, Any] = json.loads(str(golden[f"{name}/config"]))
    assert from_timm(config) == PRESETS[name]
    assert from_timm({"architecture": "resnet50", "pretrained_cfg": config}) == PRESETS[name]


def test_photographs_are_small() -> None:
    files = [*(oracle.GOLDEN / "photographs").iterdir(), FILE]
    assert sum(file.stat().st_size for file in files) <= 300_000


# --- with the libraries themselves -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def libraries() -> dict[str, oracle.Transform]:
    if missing := [name for name in ("torch", "torchvision", "timm", "keras") if not importlib.util.find_spec(name)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, on import
        return oracle.libraries()


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_any_size_is_the_library_s(libraries: dict[str, oracle.Transform], name: str) -> None:
    sides = st.integers(1, 60) | st.integers(200, 620)  # much smaller than the cut, and about its size

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(list(oracle.PHOTOGRAPHS)), sides, sides, st.sampled_from(["RGB", "L", "P", "RGBA", "1"]))
    def compare(photograph: str, height: int, width: int, mode: str) -> None:
        image = picture(Case(photograph, height, width, mode))
        assert_same(name, row(name)(image), libraries[name](on_white(image)))

    compare()


@pytest.mark.oracle
def test_every_published_resnet_of_timm_is_timm_s(libraries: dict[str, oracle.Transform]) -> None:
    import timm

    image = picture(Case("chelsea", 333, 500))
    expected: dict[Preprocess, np.ndarray] = {}  # many tags share a row
    tags = timm.list_pretrained("resnet*")  # resnetv2 too
    assert len(tags) > 100
    for tag in tags:
        config = oracle.timm_config(tag)
        for test_size in (False, True):
            ours = from_timm(config, test_size=test_size)
            if ours not in expected:
                expected[ours] = oracle.timm_transform(config, test_size)(image)
                np.testing.assert_array_equal(ours(image), expected[ours], err_msg=tag)


@pytest.mark.oracle
@pytest.mark.parametrize(("side", "shorter"), [(97, 110), (288, 329), (320, 365)])
def test_other_sizes_are_torchvision_s_too(libraries: dict[str, oracle.Transform], side: int, shorter: int) -> None:
    preset = oracle.torchvision().transforms._presets.ImageClassification(crop_size=side, resize_size=shorter)
    image = picture(Case("coffee", 300, 211))
    ours = dataclasses.replace(PRESETS["torchvision_224"], size=(side, side))
    np.testing.assert_array_equal(ours(image), oracle.hwc(preset(image)))
