"""Resize kernels by name: the kernel is part of a network's accuracy, so a Preprocess row names it.

`tf1_bilinear` is what TensorFlow 1 computed, to the bit; `pil_*` are Pillow's, rounded to uint8 and, but for
`pil_nearest`, antialiased, as torchvision, timm and Keras use them on files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError
from .pictures import MAX_PIXELS, Picture

Float: TypeAlias = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)


class Box(NamedTuple):
    """A rectangle of pixels: rows top .. top+height, columns left .. left+width."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the rectangle of `picture`, as a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def tf1_bilinear(image: Picture | Float, size: tuple[int, int], window: Box | None = None, scale: float = 1.0) -> Float:
    """Resize as TensorFlow 1's `resize_bilinear` does with align_corners=False: corner-aligned, no antialias.

    >>> import numpy as np
    >>> tf1_bilinear(np.float32([[[0], [4]]]), (1, 4))[0, :, 0].tolist()
    [0.0, 2.0, 4.0, 4.0]

    Equal to TensorFlow 2.21's CPU kernel bit for bit (tests/golden/preprocess.npz). The formula, in float32 and in this
    order, with s = input size / output size on each axis (tensorflow/core/kernels/image/resize_bilinear_op.cc):

        x = i * s;  l = floor(x);  u = min(ceil(x), input size - 1);  t = x - l
        top = p[lu] + (p[uu] - p[lu]) * tx, bottom likewise one row down;  out = top + (bottom - top) * ty

    Args:
        image: (H, W, C), uint8 or float32.
        size: height and width of the result, in pixels.
        window: the part of the result that is wanted; all of it when None. Nothing else is computed.
        scale: multiplied into the pixels before they are mixed, as when a picture is turned to [0, 1] first.

    Returns:
        (window height, window width, C) float32.
    """
    window = window or Box(0, 0, *size)
    top, bottom, down = _neighbours(image.shape[0], size[0], window.top, window.height)
    left, right, across = _neighbours(image.shape[1], size[1], window.left, window.width)
    image = image[:, left[0] : right[-1] + 1]  # of a long ribbon, only what the window needs is ever copied
    left, right = left - left[0], right - left[0]
    if window.height > image.shape[0]:  # growing: mix each row once, then repeat it
        mixed = _mix_columns(image, left, right, across, scale)
        out, below = mixed.take(top, axis=0), mixed.take(bottom, axis=0)
    else:  # shrinking: most rows are never looked at
        out = _mix_columns(image[top], left, right, across, scale)
        below = _mix_columns(image[bottom], left, right, across, scale)
    return _mix(out, below, down[:, None, None])


def _neighbours(
    in_size: int, out_size: int, start: int, count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
    x = np.arange(start, start + count).astype(np.float32) * (np.float32(in_size) / np.float32(out_size))
    floor = np.floor(x)
    last = in_size - 1  # beyond 2^24 pixels float32 may round past the end
    lower = np.minimum(floor.astype(np.intp), last)
    upper = np.minimum(np.ceil(x).astype(np.intp), last)
    return lower, upper, x - floor


def _mix_columns(
    rows: Picture | Float, left: NDArray[np.intp], right: NDArray[np.intp], t: Float, scale: float
) -> Float:
    a = rows.take(left, axis=1).astype(np.float32)
    b = rows.take(right, axis=1).astype(np.float32)
    if scale != 1:
        a *= np.float32(scale)
        b *= np.float32(scale)
    return _mix(a, b, t[:, None])


def _mix(a: Float, b: Float, t: Float) -> Float:
    """a + (b - a) * t, in `a`'s memory and using up `b`."""
    b -= a
    b *= t
    a += b
    return a


def _pil(
    filter: str, image: Picture | Float, size: tuple[int, int], window: Box | None = None, scale: float = 1.0
) -> Float:
    """Resize with one of Pillow's filters, in uint8; `scale` is applied to the result, exactly rounded to float32.

    So 1 / 255 is torch's division by 255 to the bit: a float32 product would be one unit off for half of the values.
    """
    from PIL import Image

    height, width = size
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"a picture of {image.shape[0]} x {image.shape[1]} would be resized to {height} x {width}",
            help="crop it: its sides are too unlike each other",
        )
    grey = image.shape[2] == 1
    picture = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if grey else image))
    resized = np.asarray(picture.resize((width, height), Image.Resampling[filter])).reshape(height, width, -1)
    scaled = (np.arange(256) * scale).astype(np.float32)
    return scaled.take((window or Box(0, 0, height, width)).of(resized))


Kernel: TypeAlias = Callable[[Picture, tuple[int, int], Box, float], Float]

KERNELS: dict[str, Kernel] = {
    "tf1_bilinear": tf1_bilinear,
    "pil_nearest": partial(_pil, "NEAREST"),
    "pil_box": partial(_pil, "BOX"),
    "pil_bilinear": partial(_pil, "BILINEAR"),
    "pil_hamming": partial(_pil, "HAMMING"),
    "pil_bicubic": partial(_pil, "BICUBIC"),
    "pil_lanczos": partial(_pil, "LANCZOS"),
}
