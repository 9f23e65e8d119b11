"""Write golden/library_preprocess.npz: what torchvision, timm and Keras themselves make of photographs.

Run in an environment with requirements-preprocess.txt: `python tests/oracles/reference_preprocess.py`. With resforward
and pytest there too, `pytest -m oracle tests/test_library_preprocess.py` compares more sizes and timm's every tag. Of
each result the SHA-256 of its float32 bytes is kept, and a sparse grid that shows where a difference lies.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from oracles.torchvision_on_cpu import torchvision
from PIL import Image

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILE = GOLDEN / "library_preprocess.npz"
STEP = 41  # of the sparse grid

# scikit-image's, CC0 by their photographers: Stefan van der Walt, Rachel Michetti. (left, upper, right, lower)
PHOTOGRAPHS = {"chelsea": (120, 70, 280, 190), "coffee": (200, 60, 360, 180)}


class Case(NamedTuple):
    photograph: str
    height: int
    width: int
    mode: str = "RGB"


CASES = {
    "tall": Case("chelsea", 500, 187),
    "wide": Case("coffee", 131, 600),
    "large": Case("chelsea", 601, 417),
    "halves": Case("coffee", 300, 402),  # 256 x 343: the cut would start at 59.5
    "half a pixel": Case("coffee", 1536, 1539),  # 256 x 256.5
    "256": Case("coffee", 256, 256),
    "224": Case("chelsea", 224, 224),
    "small": Case("coffee", 61, 47),
    "one row": Case("chelsea", 1, 60),
    "one column": Case("coffee", 61, 1),
    "one pixel": Case("coffee", 1, 1),
    "grey": Case("chelsea", 240, 333, "L"),
    "transparent": Case("coffee", 250, 200, "RGBA"),
    "palette": Case("chelsea", 120, 160, "P"),
    "black and white": Case("coffee", 300, 280, "1"),
}

# The row of PRESETS: a published tag that wants it.
TIMM_TAGS = {
    "timm_224": "resnet50d.ra2_in1k",
    "timm_95_224": "resnet50.a1_in1k",
    "timm_v2_224": "resnetv2_50.a1h_in1k",
    "timm_v2_90_224": "resnetv2_18.ra4_e3600_r224_in1k",
    "bit_224": "resnetv2_50x1_bit.goog_in21k",
    "bit_distilled_224": "resnetv2_50x1_bit.goog_distilled_in1k",
    "bit_448": "resnetv2_50x1_bit.goog_in21k_ft_in1k",
}

# What no published ResNet wants, but a config may say.
TIMM_CONFIGS: dict[str, dict[str, Any]] = {
    "nothing said": {"architecture": "resnet50"},
    "squash": {"input_size": [3, 200, 200], "crop_mode": "squash", "crop_pct": 0.9, "interpolation": "lanczos"},
    "whole squash": {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "hamming", "mean": [0, 0, 0]},
    "odd": {"input_size": [3, 97, 97], "crop_pct": 0.71, "interpolation": "box", "std": [1, 1, 1]},
    "nearest": {"interpolation": "nearest", "crop_mode": None, "mean": None, "std": None, "crop_pct": None},
}

Transform = Callable[[Image.Image], np.ndarray]  # an opaque picture -> (height, width, channels) float32


def picture(case: Case) -> Image.Image:
    """The photograph, cut or mirrored at its edges to the size of the case."""
    pixels = np.asarray(Image.open(GOLDEN / "photographs" / f"{case.photograph}.png"))[: case.height, : case.width]
    missing = [(0, wanted - there) for wanted, there in zip((case.height, case.width), pixels.shape, strict=False)]
    image = Image.fromarray(np.pad(pixels, [*missing, (0, 0)], "symmetric"))
    if case.mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return image
    return image.quantize(16) if case.mode == "P" else image.convert(case.mode)


def on_white(image: Image.Image) -> Image.Image:
    """The libraries drop alpha, we do not: they get what is seen on white paper."""
    if image.mode != "RGBA":
        return image
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image)
    return paper


def digest(array: np.ndarray) -> bytes:
    assert array.dtype == np.float32
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest().encode()


def sparse(array: np.ndarray) -> np.ndarray:
    return array[::STEP, ::STEP]


def published(weights: str) -> Transform:
    """The transforms that torchvision publishes with weights of ResNet-50."""
    transforms = getattr(torchvision().models.ResNet50_Weights, weights).transforms()
    return lambda image: hwc(transforms(image.convert("RGB")))


def timm_transform(config: dict[str, Any], test_size: bool = False) -> Transform:
    torchvision()
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config(pretrained_cfg=config, use_test_size=test_size))
    return lambda image: hwc(transform(image.convert("RGB")))


def timm_config(tag: str) -> dict[str, Any]:
    """What timm writes into config.json for a published tag, through JSON."""
    torchvision()
    import timm

    config: dict[str, Any] = json.loads(json.dumps(timm.get_pretrained_cfg(tag).to_dict()))
    return config


def hwc(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy().transpose(1, 2, 0))


def bit(side: int) -> Transform:
    """google-research/big_transfer 4345c81, bit_pytorch/train.py, `val_tx`."""
    transforms = torchvision().transforms
    steps = transforms.Compose(
        [
            transforms.Resize((side, side)),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    return lambda image: hwc(steps(image.convert("RGB")))


def keras(application: str, side: int, **options: Any) -> Transform:
    """Keras' own example: load_img, img_to_array, preprocess_input."""
    torchvision()
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    preprocess_input = getattr(keras.applications, application).preprocess_input

    def run(image: Image.Image) -> np.ndarray:
        file = io.BytesIO()
        image.save(file, "PNG")
        loaded = keras.utils.load_img(file, target_size=(side, side), **options)
        return np.ascontiguousarray(preprocess_input(keras.utils.img_to_array(loaded)))

    return run


def keras_of_centre(image: Image.Image) -> np.ndarray:
    """Caffe's cut, which Keras leaves to the caller, by torchvision; what follows by Keras."""
    functional = torchvision().transforms.functional
    cut = functional.center_crop(functional.resize(image.convert("RGB"), [256]), [224])
    return keras("resnet", 224)(cut)  # 224 already: nothing is resized


def onnx_zoo(image: Image.Image) -> np.ndarray:
    """onnx/models 6407a48, imagenet_preprocess.py, in its operations and its order."""
    image = image.convert("RGB")
    ratio = float(256) / min(image.size)
    longer = round(ratio * max(image.size))
    size = (longer, 256) if image.width > image.height else (256, longer)
    pixels = np.array(image.resize(size, Image.Resampling.BILINEAR)).astype("float32")
    top, left = (side // 2 - 224 // 2 for side in pixels.shape[:2])
    cut = pixels[top : top + 224, left : left + 224]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((cut / 255 - mean) / std).astype("float32")


def libraries() -> dict[str, Transform]:
    """By the row of PRESETS, or of TIMM_CONFIGS, that must give the same."""
    return {
        "keras_caffe_224": keras_of_centre,
        "keras_caffe_nearest_224": keras("resnet", 224),
        "keras_caffe_bilinear_224": keras("resnet", 224, interpolation="bilinear"),
        "keras_tf_nearest_299": keras("resnet_v2", 299),
        "keras_tf_bilinear_299": keras("resnet_v2", 299, interpolation="bilinear"),
        "torchvision_224": published("IMAGENET1K_V1"),
        "torchvision_v2_224": published("IMAGENET1K_V2"),
        "onnx_zoo_224": onnx_zoo,
        "bit_480": bit(480),
        **{row: timm_transform(timm_config(tag)) for row, tag in TIMM_TAGS.items()},
        **{name: timm_transform(config) for name, config in TIMM_CONFIGS.items()},
    }


def write_photographs() -> None:
    import skimage

    (GOLDEN / "photographs").mkdir(exist_ok=True)
    for name, box in PHOTOGRAPHS.items():
        cut = Image.fromarray(getattr(skimage.data, name)()).crop(box)
        cut.save(GOLDEN / "photographs" / f"{name}.png", optimize=True)


def main() -> None:
    write_photographs()
    images = [on_white(picture(case)) for case in CASES.values()]
    out: dict[str, np.ndarray] = {}
    for name, library in libraries().items():
        results = [library(image) for image in images]
        out[f"{name}/sha256"] = np.array([digest(result) for result in results])
        out[name] = np.stack([sparse(result) for result in results])
    for row, tag in TIMM_TAGS.items():
        out[f"{row}/config"] = np.array(json.dumps(timm_config(tag)))
    packages = ("torchvision", "torch", "timm", "keras", "pillow", "numpy", "scikit-image")
    np.savez_compressed(FILE, versions=np.array([f"{name} {version(name)}" for name in packages]), **out)


if __name__ == "__main__":
    main()
