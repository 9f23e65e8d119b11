"""Geometry rules by name: which part of the picture the network sees, and at what size.

Every rule is one mapping, picture size -> Frame; whatever the rule, what follows is: cut `source` out of the picture,
resize it to `resized`, keep `window`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np

from .resize import Box


class Frame(NamedTuple):
    source: Box  # cut from the picture
    resized: tuple[int, int]  # height and width that the cut is resized to
    window: Box  # kept of the resized


Rule: TypeAlias = Callable[[int, int, tuple[int, int], float], Frame]


def squash(height: int, width: int, size: tuple[int, int], crop: float) -> Frame:
    """Cut the central `crop` of both sides, then resize to `size`, whatever that does to the aspect.

    slim's inception_preprocessing.preprocess_for_eval. The cut is tf.image.central_crop's, in its float64 arithmetic:
    start = int((side - side * crop) / 2), length = side - 2 * start.

    >>> squash(500, 375, (299, 299), 0.875).source
    Box(top=31, left=23, height=438, width=329)
    """
    top, left = (int((side - side * crop) / 2) for side in (height, width))
    return Frame(Box(top, left, height - 2 * top, width - 2 * left), size, Box(0, 0, *size))


def shorter_side_rint(height: int, width: int, size: tuple[int, int], crop: float) -> Frame:
    """Resize the shorter side to size / crop with the aspect kept, sides rounded, then cut the centre.

    slim's vgg_preprocessing.preprocess_for_eval (tensorflow/models d318246; its first version truncated the sides):
    scale = 256 / shorter side and rint(side * scale), both in float32; the cut starts at (side - 224) // 2.

    >>> shorter_side_rint(500, 375, (224, 224), 0.875)[1:]
    ((341, 256), Box(top=58, left=16, height=224, width=224))
    """
    wanted = _before_crop(size, crop)
    scale = max(np.float32(w) / np.float32(side) for w, side in zip(wanted, (height, width), strict=True))
    resized = int(np.rint(np.float32(height) * scale)), int(np.rint(np.float32(width) * scale))
    top, left = ((side - kept) // 2 for side, kept in zip(resized, size, strict=True))
    return Frame(Box(0, 0, height, width), resized, Box(top, left, *size))


def shorter_side_floor(height: int, width: int, size: tuple[int, int], crop: float) -> Frame:
    """Resize the shorter side to size / crop with the aspect kept, the longer side truncated, then cut the centre.

    torchvision's Resize and CenterCrop, which timm uses too: int(256 * longer / shorter), and a cut that starts at
    round((side - 224) / 2), halves to the even neighbour. CenterCrop pads what is smaller than the cut; with a crop of
    at most 1 nothing is.

    >>> shorter_side_floor(500, 375, (224, 224), 0.875)[1:]
    ((341, 256), Box(top=58, left=16, height=224, width=224))
    """
    wanted = _before_crop(size, crop)
    scale = max(Fraction(w, side) for w, side in zip(wanted, (height, width), strict=True))
    resized = int(height * scale), int(width * scale)
    top, left = (round((side - kept) / 2) for side, kept in zip(resized, size, strict=True))
    return Frame(Box(0, 0, height, width), resized, Box(top, left, *size))


def shorter_side_round(height: int, width: int, size: tuple[int, int], crop: float) -> Frame:
    """Resize the shorter side to size / crop with the aspect kept, sides rounded, then cut the centre.

    The ONNX zoo's imagenet_preprocess.py (onnx/models 6407a48), in its float64 arithmetic: round(256 / shorter side *
    side), halves to the even neighbour; the cut starts at side // 2 - 224 // 2.

    >>> shorter_side_round(480, 641, (224, 224), 0.875)[1:]
    ((256, 342), Box(top=16, left=59, height=224, width=224))
    """
    wanted = _before_crop(size, crop)
    scale = max(w / side for w, side in zip(wanted, (height, width), strict=True))
    resized = round(height * scale), round(width * scale)
    top, left = (side // 2 - kept // 2 for side, kept in zip(resized, size, strict=True))
    return Frame(Box(0, 0, height, width), resized, Box(top, left, *size))


def squash_then_cut(height: int, width: int, size: tuple[int, int], crop: float) -> Frame:
    """Resize the whole picture to size / crop, whatever that does to the aspect, then cut the centre.

    timm's crop_mode "squash". With a crop of 1 it is `squash`; else the edges are mixed with what is cut away.

    >>> squash_then_cut(500, 375, (224, 224), 0.875)[1:]
    ((256, 256), Box(top=16, left=16, height=224, width=224))
    """
    resized = _before_crop(size, crop)
    top, left = (round((side - kept) / 2) for side, kept in zip(resized, size, strict=True))
    return Frame(Box(0, 0, height, width), resized, Box(top, left, *size))


def _before_crop(size: tuple[int, int], crop: float) -> tuple[int, int]:
    return int(size[0] / crop), int(size[1] / crop)


RULES: dict[str, Rule] = {
    "squash": squash,
    "shorter_side_rint": shorter_side_rint,
    "shorter_side_floor": shorter_side_floor,
    "shorter_side_round": shorter_side_round,
    "squash_then_cut": squash_then_cut,
}
