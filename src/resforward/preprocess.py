"""Preprocessing as a row of values that travels with the weights: from any picture to what the network was trained on.

Wrong preprocessing is the commonest reason for a network that "does not work": tensorflow/models#2855, #2217,
tensorflow/tensorflow#41643. docs/preprocessing.md is the table of rows: who uses them, and where that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .errors import ImageError, NetworkError, nearest
from .geometry import RULES
from .pictures import Mode, read_picture
from .resize import KERNELS, Float

_CHANNELS: dict[str, tuple[Mode, int]] = {"rgb": ("RGB", 3), "bgr": ("RGB", 3), "grey": ("L", 1)}
_MAX_SIDE = 16_384
_MIN_CROP = 1e-3
_HUGE = float(np.finfo(np.float32).max)
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the network's input: y = (x * scale - mean) / std, float32, height x width x channels.

    >>> from dataclasses import replace
    >>> import numpy as np
    >>> INCEPTION_299(np.zeros((500, 375, 3), np.uint8)).shape
    (299, 299, 3)
    >>> print(replace(VGG_224, size=(320, 320)).describe())
    rgb, shorter side to 365 (rint), tf1_bilinear, central 320x320, (x - [123.68, 116.78, 103.94])

    Args:
        size: height and width of the result, in pixels.
        geometry: a name in `geometry.RULES`: what is cut from the picture, and whether its aspect is kept.
        crop: the fraction of the side that the network sees, 0.001 to 1.
        kernel: a name in `resize.KERNELS`.
        scale: multiplied into the pixels, which are 0 .. 255.
        mean: subtracted after that, one for each channel in the order of `channels`.
        std: divided by at the end, likewise.
        channels: "rgb", "bgr" or "grey".

    Raises:
        NetworkError: a value that describes no preprocessing; every misfit is listed.
    """

    size: tuple[int, int]
    geometry: str
    crop: float
    kernel: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "rgb"

    def __post_init__(self) -> None:
        found = list(self._misfits())
        if found:
            raise NetworkError("this row describes no preprocessing", found=found)

    def _misfits(self) -> list[str]:
        found = []
        if len(self.size) != 2 or not all(isinstance(side, int) and 1 <= side <= _MAX_SIDE for side in self.size):
            found.append(f"`size` is {self.size}, expected (height, width) of 1 to {_MAX_SIDE} pixels")
        for field, known in (("geometry", RULES), ("kernel", KERNELS), ("channels", _CHANNELS)):
            name = getattr(self, field)
            if name not in known:
                near = nearest(str(name), known)
                found.append(f"`{field}` is {name!r}, expected one of {', '.join(known)}" + (near and f"; {near}"))
        if not _MIN_CROP <= self.crop <= 1:
            found.append(f"`crop` is {self.crop}, expected a fraction, {_MIN_CROP} to 1")
        if not _TINY <= self.scale <= _HUGE:
            found.append(f"`scale` is {self.scale}, expected a number above 0")
        count = _CHANNELS.get(self.channels, ("", 0))[1]
        for field in ("mean", "std"):
            values = getattr(self, field)
            if count and len(values) != count:
                found.append(f"`{field}` has {len(values)} values, expected {count} for `{self.channels}`")
            if not all(abs(value) <= _HUGE for value in values):
                found.append(f"`{field}` is {values}, expected finite numbers")
        if not all(value >= _TINY for value in self.std):
            found.append(f"`std` is {self.std}, expected numbers above 0")
        return found

    @property
    def input_channels(self) -> int:
        """The last axis of what comes out: 3, or 1 for grey."""
        return _CHANNELS[self.channels][1]

    def __call__(self, source: Any) -> Float:
        """Return one picture as (height, width, channels) float32.

        Args:
            source: whatever `read_picture` takes: a path, the bytes of a file, a PIL image, an (H, W, C) uint8 array.

        Raises:
            ImageError: the source cannot be read as a picture.
        """
        picture = read_picture(source, _CHANNELS[self.channels][0])
        frame = RULES[self.geometry](picture.shape[0], picture.shape[1], self.size, self.crop)
        kernel = KERNELS[self.kernel]
        out = kernel(frame.source.of(picture), frame.resized, frame.window, self.scale)
        if self.channels == "bgr":
            out = np.ascontiguousarray(out[:, :, ::-1])
        out -= np.array(self.mean, np.float32)
        out /= np.array(self.std, np.float32)
        return out

    def batch(self, sources: Sequence[Any]) -> Float:
        """Return pictures as (N, height, width, channels) float32.

        Args:
            sources: whatever `read_picture` takes, each on its own.

        Raises:
            ImageError: some sources cannot be read as pictures; every one of them is listed.
        """
        out = np.empty((len(sources), *self.size, self.input_channels), np.float32)
        found = []
        for i, source in enumerate(sources):
            try:
                out[i] = self(source)
            except ImageError as error:
                found.append(f"picture {i}: {error.message}")
        if found:
            raise ImageError(f"{len(found)} of {len(sources)} pictures cannot be read", found=found)
        return out

    def describe(self) -> str:
        """Return the whole row as one line of text.

        >>> INCEPTION_299.describe()
        'rgb, central 87.5%, tf1_bilinear to 299x299 (aspect not kept), (x / 255 - 0.5) / 0.5'
        """
        height, width = self.size
        if self.geometry == "squash":
            part = "whole picture" if self.crop == 1 else f"central {100 * self.crop:g}%"
            steps = [part, f"{self.kernel} to {height}x{width} (aspect not kept)"]
        elif self.geometry == "squash_then_cut":
            resized = f"{int(height / self.crop)}x{int(width / self.crop)}"
            steps = ["whole picture", f"{self.kernel} to {resized} (aspect not kept)", f"central {height}x{width}"]
        else:
            side = int(min(self.size) / self.crop)
            rounding = self.geometry.rpartition("_")[2]
            steps = [f"shorter side to {side} ({rounding})", self.kernel, f"central {height}x{width}"]
        return ", ".join([self.channels, *steps, self._formula()])

    def _formula(self) -> str:
        formula = "x"
        if self.scale != 1:
            formula += f" / {1 / self.scale:g}"
        if any(self.mean):
            formula = f"({formula} - {_short(self.mean)})"
        if any(value != 1 for value in self.std):
            formula += f" / {_short(self.std)}"
        return formula

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Preprocess:
        """Rebuild a row from what `dataclasses.asdict` made of it, JSON's lists included.

        >>> import dataclasses, json
        >>> Preprocess.from_dict(json.loads(json.dumps(dataclasses.asdict(VGG_224)))) == VGG_224
        True

        Raises:
            NetworkError: fields are missing or unknown, or a value has the wrong type or range.
        """
        known = {field.name for field in fields(cls)}
        found = [f"`{name}` is missing" for name in sorted(known - set(row))]
        found += [f"`{name}` is unknown" for name in sorted(set(row) - known)]
        if found:
            raise NetworkError("this row describes no preprocessing", found=found)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise NetworkError(f"this row describes no preprocessing: {error}") from error


def _short(values: tuple[float, ...]) -> str:
    """One number when all channels share it."""
    return f"{values[0]:g}" if len(set(values)) == 1 else f"[{', '.join(f'{value:g}' for value in values)}]"


# slim resnet_v2: inception_preprocessing.preprocess_for_eval (tensorflow/models 417e1f5). (x - 0.5) / 0.5 is its
# (x - 0.5) * 2 to the bit: 0.5 is a power of two.
INCEPTION_299 = Preprocess(
    size=(299, 299),
    geometry="squash",
    crop=0.875,
    kernel="tf1_bilinear",
    scale=1 / 255,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

# slim resnet_v1: vgg_preprocessing.preprocess_for_eval (tensorflow/models d318246). 224 / 0.875 = 256.
VGG_224 = Preprocess(
    size=(224, 224),
    geometry="shorter_side_rint",
    crop=0.875,
    kernel="tf1_bilinear",
    scale=1.0,
    mean=(123.68, 116.78, 103.94),
    std=(1.0, 1.0, 1.0),
)

# Keras ResNet50/101/152, preprocess_input in "caffe" mode. Keras does not say how the pictures of its published figures
# were resized; this is the Caffe original's shorter side of 256 and central 224.
KERAS_CAFFE_224 = Preprocess(
    size=(224, 224),
    geometry="shorter_side_floor",
    crop=0.875,
    kernel="pil_bilinear",
    scale=1.0,
    mean=(103.939, 116.779, 123.68),
    std=(1.0, 1.0, 1.0),
    channels="bgr",
)

# What Keras' own examples do: load_img(path, target_size=(224, 224)), which squashes the whole picture and takes the
# nearest pixel unless told otherwise, and the same with interpolation="bilinear".
KERAS_CAFFE_NEAREST_224 = replace(KERAS_CAFFE_224, geometry="squash", crop=1.0, kernel="pil_nearest")
KERAS_CAFFE_BILINEAR_224 = replace(KERAS_CAFFE_NEAREST_224, kernel="pil_bilinear")

# Keras ResNet50V2/101V2/152V2, preprocess_input in "tf" mode: published at 299, though the model's default is 224.
KERAS_TF_NEAREST_299 = Preprocess(
    size=(299, 299),
    geometry="squash",
    crop=1.0,
    kernel="pil_nearest",
    scale=1 / 127.5,
    mean=(1.0, 1.0, 1.0),
    std=(1.0, 1.0, 1.0),
)
KERAS_TF_BILINEAR_299 = replace(KERAS_TF_NEAREST_299, kernel="pil_bilinear")

# torchvision's ImageNet evaluation: V1 weights, and V2 with a shorter side of 232.
TORCHVISION_224 = Preprocess(
    size=(224, 224),
    geometry="shorter_side_floor",
    crop=0.875,
    kernel="pil_bilinear",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
TORCHVISION_V2_224 = replace(TORCHVISION_224, crop=0.965)  # int(224 / 0.965) = 232; timm's own number

# The ONNX model zoo's ResNets, which MXNet Gluon trained: torchvision's values, other roundings.
ONNX_ZOO_224 = replace(TORCHVISION_224, geometry="shorter_side_round")

# timm, where no config.json says more (`from_timm` reads one). resnet*: most tags, and those of the a, b, c, d recipes.
TIMM_224 = replace(TORCHVISION_224, kernel="pil_bicubic")
TIMM_95_224 = replace(TIMM_224, crop=0.95)

# timm's resnetv2_*: 50 and 101 layers (a1h), 18 and 34 (ra4).
TIMM_V2_224 = replace(TIMM_95_224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TIMM_V2_90_224 = replace(TIMM_V2_224, crop=0.9)

# BiT in timm: of 21k classes; distilled; fine-tuned to ImageNet, where the aspect is kept. BiT's own code squashes.
BIT_224 = replace(TIMM_V2_224, crop=0.875, kernel="pil_bilinear")
BIT_DISTILLED_224 = replace(BIT_224, kernel="pil_bicubic")
BIT_448 = replace(BIT_224, size=(448, 448), crop=1.0)
BIT_480 = replace(BIT_448, size=(480, 480), geometry="squash")

# The built-in model. Fashion-MNIST's garments are light on black; nothing is inverted here.
FASHION_28 = Preprocess(
    size=(28, 28),
    geometry="squash",
    crop=1.0,
    kernel="pil_bicubic",
    scale=1 / 255,
    mean=(0.2860,),
    std=(0.3530,),
    channels="grey",
)

# By the name that a family's row gives.
PRESETS: dict[str, Preprocess] = {
    "inception_299": INCEPTION_299,
    "vgg_224": VGG_224,
    "keras_caffe_224": KERAS_CAFFE_224,
    "keras_caffe_nearest_224": KERAS_CAFFE_NEAREST_224,
    "keras_caffe_bilinear_224": KERAS_CAFFE_BILINEAR_224,
    "keras_tf_nearest_299": KERAS_TF_NEAREST_299,
    "keras_tf_bilinear_299": KERAS_TF_BILINEAR_299,
    "torchvision_224": TORCHVISION_224,
    "torchvision_v2_224": TORCHVISION_V2_224,
    "onnx_zoo_224": ONNX_ZOO_224,
    "timm_224": TIMM_224,
    "timm_95_224": TIMM_95_224,
    "timm_v2_224": TIMM_V2_224,
    "timm_v2_90_224": TIMM_V2_90_224,
    "bit_224": BIT_224,
    "bit_distilled_224": BIT_DISTILLED_224,
    "bit_448": BIT_448,
    "bit_480": BIT_480,
    "fashion_28": FASHION_28,
}

_PIL_FILTERS = tuple(name.removeprefix("pil_") for name in KERNELS if name.startswith("pil_"))
_TIMM_GEOMETRY = {"center": "shorter_side_floor", "squash": "squash_then_cut"}


def _numbers(value: Any, least: float) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 3
        and all(isinstance(number, (int, float)) and least <= number <= _HUGE for number in value)
    )


# field of a config: (what timm takes when it is missing, whether a value is one, what one is)
_TIMM: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "input_size": (
        (3, 224, 224),
        lambda v: isinstance(v, Sequence) and len(v) == 3 and v[0] == 3 and v[1] == v[2] and isinstance(v[1], int),
        "[3, side, side]",
    ),
    "interpolation": ("bicubic", lambda v: v in _PIL_FILTERS, f"one of {', '.join(_PIL_FILTERS)}"),
    "crop_pct": (0.875, lambda v: isinstance(v, (int, float)) and _MIN_CROP <= v <= 1, f"a fraction, {_MIN_CROP} to 1"),
    "crop_mode": ("center", lambda v: v in tuple(_TIMM_GEOMETRY), " or ".join(_TIMM_GEOMETRY)),
    "mean": (TORCHVISION_224.mean, lambda v: _numbers(v, -_HUGE), "three numbers"),
    "std": (TORCHVISION_224.std, lambda v: _numbers(v, _TINY), "three numbers above 0"),
}


def from_timm(config: Mapping[str, Any], *, test_size: bool = False) -> Preprocess:
    """Return the row that timm's `config.json` describes.

    >>> config = {"input_size": [3, 224, 224], "crop_pct": 0.95, "test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
    >>> from_timm({"architecture": "resnet50", "pretrained_cfg": config}) == TIMM_95_224
    True
    >>> row = from_timm(config, test_size=True)
    >>> row.size, row.crop
    ((288, 288), 1.0)

    Args:
        config: the whole file, or its `pretrained_cfg`, as `json.load` reads it. What is missing, null or empty is what
            timm takes in its place.
        test_size: take `test_input_size` and `test_crop_pct` where there are any, as timm's validate.py does.

    Raises:
        NetworkError: values that describe no evaluation of square RGB pictures; every misfit is listed. So are
            `interpolation: random`, which is for training and which timm's own evaluation cannot do either, and
            `crop_mode: border`, which no published ResNet has.

    Source: timm 1.0.31, `resolve_data_config` in timm/data/config.py, `transforms_imagenet_eval` in
    timm/data/transforms_factory.py.
    """
    told = config.get("pretrained_cfg", config) if isinstance(config, Mapping) else config
    if not isinstance(told, Mapping):
        raise NetworkError(f"timm's config is {type(told).__name__}, expected an object of named values")
    sources = {name: name for name in _TIMM}
    if test_size:
        sources |= {name: f"test_{name}" for name in ("input_size", "crop_pct") if told.get(f"test_{name}")}
    values = {name: told.get(source) or _TIMM[name][0] for name, source in sources.items()}
    found = [
        f"`{sources[name]}` is {values[name]!r}, expected {expected}"
        for name, (_, fits, expected) in _TIMM.items()
        if not fits(values[name])
    ]
    if found:
        raise NetworkError("timm's config describes no preprocessing that is known here", found=found)
    return Preprocess(
        size=tuple(values["input_size"][1:]),
        geometry=_TIMM_GEOMETRY[values["crop_mode"]],
        crop=float(values["crop_pct"]),
        kernel=f"pil_{values['interpolation']}",
        scale=1 / 255,
        mean=tuple(map(float, values["mean"])),
        std=tuple(map(float, values["std"])),
    )
