"""Preprocessing from timm's config.json; the values are those of published files (timm 1.0.31)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plain_networks import CASES, random_weights
from test_dialects import HELD, stored

from resforward import CheckpointError, NetworkError, load
from resforward.own_file import own_bytes
from resforward.preprocess import BIT_448, TIMM_224, TIMM_V2_224, TORCHVISION_224, from_timm

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
PUBLISHED = {
    "resnet18.tv_in1k": ({"interpolation": "bilinear", "crop_pct": 0.875, **IMAGENET}, TORCHVISION_224),
    "resnet50d.ra2_in1k": ({"interpolation": "bicubic", "crop_pct": 0.875, **IMAGENET}, TIMM_224),
    "resnetv2_50.a1h_in1k": ({"interpolation": "bicubic", "crop_pct": 0.95, **HALF}, TIMM_V2_224),
    "resnetv2_50x1_bit.goog_in21k_ft_in1k": (
        {"input_size": [3, 448, 448], "interpolation": "bilinear", "crop_pct": 1.0, **HALF},
        BIT_448,
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_configs_are_the_rows(case: str) -> None:
    cfg, row = PUBLISHED[case]
    assert from_timm({"architecture": case, "pretrained_cfg": {"crop_mode": "center", **cfg}}) == row
    assert from_timm(cfg) == row  # without what is around it


def saved(folder: Path, config: str | None) -> Path:
    tensors = stored(HELD["torch"][0], random_weights(CASES["torch"]))
    path = folder / "model.safetensors"
    path.write_bytes(own_bytes(tensors, {}, "float32"))
    if config is not None:
        (folder / "config.json").write_text(config)
    return path


def test_the_file_beside_the_weights_says_it(tmp_path: Path) -> None:
    cfg, row = PUBLISHED["resnetv2_50.a1h_in1k"]
    path = saved(tmp_path, json.dumps({"pretrained_cfg": cfg}))
    for model in (load(path), load(tmp_path)):
        assert model.preprocess == row
        assert "preprocessing: config.json beside it" in model.evidence
    assert load(path, preprocess="torchvision_224").preprocess == TORCHVISION_224


def test_a_file_that_is_too_large_to_be_a_config_is_nothing(tmp_path: Path) -> None:
    cfg, _ = PUBLISHED["resnetv2_50.a1h_in1k"]
    assert load(saved(tmp_path, json.dumps({"pretrained_cfg": cfg}) + " " * (1 << 20))).preprocess == TORCHVISION_224


@pytest.mark.parametrize("text", [None, "", "[", "[1]", "{}", '{"name": "another program"}', "[" * 10_000])
def test_a_file_of_somebody_else_is_nothing(text: str | None, tmp_path: Path) -> None:
    assert load(saved(tmp_path, text)).preprocess == TORCHVISION_224


@pytest.mark.parametrize("architecture", ["resnetaa50d", "resnetblur50"])
def test_what_has_a_resnet_s_variables_and_is_none_is_refused(architecture: str, tmp_path: Path) -> None:
    cfg, _ = PUBLISHED["resnet18.tv_in1k"]
    path = saved(tmp_path, json.dumps({"architecture": architecture, "pretrained_cfg": cfg}))
    with pytest.raises(CheckpointError, match=f"the network is {architecture}, which smooths"):
        load(path)
    with pytest.raises(CheckpointError, match="smooths"):
        load(path, preprocess="torchvision_224")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": cfg}))
    load(path)


def test_what_timm_says_and_is_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json(.|\n)*border(.|\n)*pass preprocess="):
        load(saved(tmp_path, json.dumps({"pretrained_cfg": {"crop_mode": "border"}})))


def test_a_misspelt_row_gets_a_near_name() -> None:
    with pytest.raises(NetworkError, match="no preprocessing called 'torchvison_224'") as caught:
        load("fashion", preprocess="torchvison_224")
    assert "`torchvision_224`" in caught.value.found[0]
