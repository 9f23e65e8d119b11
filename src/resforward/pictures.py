"""Decoding: a path, bytes, a PIL image or an array in; height x width x channels of uint8 out.

Fixed rules, so that one file means one picture everywhere:

* the kind of file is read from its first bytes, never from its name: JPEG, PNG, WebP, BMP, GIF, TIFF;
* EXIF rotation is applied; of an animation or a multi-page file the first picture is taken;
* alpha is composited on white; palettes, 1-bit, CMYK and YCCK become RGB; ICC profiles are not applied;
* 16-bit samples become ``v >> 8``, 12-bit ones ``v >> 4``; 32-bit samples have no fixed range and are refused;
* a file that ends early is an error, never a picture with a grey lower half.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Picture: TypeAlias = NDArray[np.uint8]
Mode: TypeAlias = Literal["RGB", "L"]

MAX_PIXELS = 100_000_000
_MAX_FILE = 1 << 30  # 100 megapixels of uncompressed 16-bit RGBA are 0.8 GB
_HEAD = 1024  # bytes that name the kind of file; an XML prologue may come before `<svg`

_READABLE = "JPEG, PNG, WebP, BMP, GIF and TIFF are read, whatever the file is called"

# (offset, magic, kind, Pillow's format or "" when it is not read here)
_KINDS = (
    (0, b"\xff\xd8\xff", "JPEG", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG", "PNG"),
    (8, b"WEBP", "WebP", "WEBP"),
    (0, b"GIF8", "GIF", "GIF"),
    (0, b"II*\0", "TIFF", "TIFF"),
    (0, b"MM\0*", "TIFF", "TIFF"),
    (0, b"II+\0", "BigTIFF", "TIFF"),
    (0, b"MM\0+", "BigTIFF", "TIFF"),
    (0, b"BM", "BMP", "BMP"),
    (4, b"ftypavif", "AVIF", ""),
    (4, b"ftyphei", "HEIC", ""),
    (4, b"ftyphev", "HEIC", ""),
    (4, b"ftypmif1", "HEIC", ""),
    (4, b"ftypmsf1", "HEIC", ""),
    (4, b"ftyp", "MP4 or QuickTime", ""),
    (4, b"JXL \r\n\x87\n", "JPEG XL", ""),
    (0, b"\xff\x0a", "JPEG XL", ""),
    (4, b"jP  \r\n\x87\n", "JPEG 2000", ""),
    (0, b"8BPS", "Photoshop", ""),
    (0, b"\0\0\1\0", "icon", ""),
    (0, b"%PDF", "PDF", ""),
    (0, b"%!PS", "PostScript", ""),
    (0, b"\x93NUMPY", "NumPy", ""),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", ""),
    (0, b"PK\3\4", "zip", ""),
    (0, b"\x1f\x8b", "gzip", ""),
    (0, b"version https://git-lfs", "Git LFS pointer", ""),
)

# EXIF orientation -> (swap rows and columns, then flip rows, flip columns); EXIF 2.32, tag 0x0112
_ORIENTATIONS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_PLANAR = 284


def read_picture(source: Any, mode: Mode = "RGB") -> Picture:
    """Return any picture as height x width x channels of uint8.

    >>> import numpy as np
    >>> read_picture(np.zeros((4, 6), np.uint8)).shape
    (4, 6, 3)
    >>> read_picture(np.zeros((40, 60, 3), np.uint8), mode="L").shape
    (40, 60, 1)

    Args:
        source: a path (str or os.PathLike); the bytes of a file; a PIL image; or a uint8 array of shape (H, W) grey,
            (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA. An array is never written to, and an RGB array may come
            back as it is, not as a copy.
        mode: "RGB" for three channels, "L" for one (ITU-R 601 luma, as Pillow computes it).

    Returns:
        (H, W, 3) or (H, W, 1) uint8.

    Raises:
        ImageError: no such file, not a picture, damaged, cut short, over 100 megapixels (known from the header, before
            anything is decoded), or an array that could be read two ways.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _decode(_read_file(path), f"`{path.name}`", mode)
    if isinstance(source, (bytes, bytearray)) or (isinstance(source, memoryview) and source.ndim == 1):
        return _decode(bytes(source), "the file given as bytes", mode)

    from PIL import Image

    if isinstance(source, Image.Image):
        return _pixels(source, "the PIL image", mode)
    array = _as_picture_array(source)
    if mode == "RGB" and array.shape[2:] == (3,):
        return array
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    return _pixels(Image.fromarray(np.ascontiguousarray(array)), "the array", mode)


def _read_file(path: Path) -> bytes:
    try:
        # Not to wait for a pipe that nobody writes to; what is no file is refused.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
                raise ImageError(f"`{path}` cannot be read: is a {kind}")
            head = file.read(_HEAD)
            _format(head, f"`{path.name}`")  # a film or a disk image is refused here, before it fills the memory
            data = head + file.read(_MAX_FILE + 1 - len(head))
    except FileNotFoundError as error:
        raise ImageError(f"no file `{path}`", help=_name_help(path)) from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"`{path}` cannot be read: {reason.lower()}") from error
    if len(data) > _MAX_FILE:
        raise ImageError(f"`{path.name}` is larger than 1 GiB, which no picture of {_megapixels(MAX_PIXELS)} needs")
    return data


def _name_help(path: Path) -> str:
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        return "addresses are not fetched; download the picture first"
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, 10_000)]  # comparing spellings is slow: not a million
    except OSError:
        return f"the folder `{path.parent}` cannot be listed"
    return nearest(path.name, names) or f"nothing in `{path.parent}` has a name like it"


def _kind(head: bytes) -> tuple[str, str]:
    for offset, magic, kind, pillow in _KINDS:
        if head.startswith(magic, offset):
            return kind, pillow
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        for tag, kind in ((b"<svg", "SVG"), (b"<html", "HTML"), (b"<!doctype html", "HTML"), (b"<?xml", "XML")):
            if tag in text:
                return kind, ""
    return "", ""


def _format(head: bytes, name: str) -> str:
    """Return Pillow's name of the file's format, or say what the file is instead."""
    kind, pillow = _kind(head)
    if pillow:
        return pillow
    if not head:
        raise ImageError(f"{name} is empty")
    if kind == "HTML":
        raise ImageError(f"{name} is an HTML page, not a picture", help="a download that failed often leaves one")
    if kind == "Git LFS pointer":
        raise ImageError(f"{name} is a Git LFS pointer, not the picture itself", help="`git lfs pull` fetches it")
    if kind:
        raise ImageError(f"{name} is a {kind} file, which is not read here", help=_READABLE)
    raise ImageError(f"{name} is not a picture: it starts with the bytes {head[:8].hex(' ')}", help=_READABLE)


def _decode(data: bytes, name: str, mode: Mode) -> Picture:
    from PIL import Image

    pillow = _format(data[:_HEAD], name)
    try:
        with _complete_files_only():
            image = Image.open(io.BytesIO(data), formats=[pillow])
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the latter under `-W error`
        raise ImageError(f"{name} is refused before decoding: {error}") from error
    except Exception as error:  # on hostile bytes a decoder may raise anything; whatever it is, there is no picture
        raise ImageError(f"{name} is a damaged {pillow} file: its header cannot be read") from error
    with image:
        return _pixels(image, name, mode)


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} megapixels"


def _pixels(image: PILImage, name: str, mode: Mode) -> Picture:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels: more than {_megapixels(MAX_PIXELS)} are refused before decoding"
        )
    if width * height == 0:
        raise ImageError(f"{name} has no pixels: {width} x {height}")
    try:
        _check_strips(image, name)
        with _complete_files_only():
            image.load()
        flat = _flat(image, name)
        if flat.mode != mode:
            flat = flat.convert(mode)
        picture = np.asarray(flat).reshape(flat.height, flat.width, -1)
        return _upright(picture, image.getexif().get(_EXIF_ORIENTATION, 1))
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # as above; the decoder's words say what is wrong
        raise ImageError(f"{name} is damaged or cut short: {error}") from error


def _check_strips(image: PILImage, name: str) -> None:
    """Refuse a TIFF whose strips do not cover it: Pillow would leave the rest black."""
    tiles = getattr(image, "tile", ())  # of a file not yet decoded
    if image.format != "TIFF" or not tiles:
        return
    whole = (0, 0, *image.size)
    planes = len(image.getbands()) if getattr(image, "tag_v2", {}).get(_TIFF_PLANAR) == 2 else 1
    declared = planes * image.width * image.height
    present = sum((right - left) * (bottom - top) for left, top, right, bottom in (tile[1] or whole for tile in tiles))
    if present < declared:
        raise ImageError(f"{name} is damaged or cut short: it holds {present} of {declared} samples")


def _flat(image: PILImage, name: str) -> PILImage:
    """Return the image as opaque "L" or "RGB"."""
    from PIL import Image, ImageChops

    if image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(image))
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{name} has 32-bit samples, whose black and white are not known",
            help="scale it to 8 bits first; 16-bit greys are read as `v >> 8`",
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(rgba, mask=rgba)
        return flat
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Adobe's CMYK files are inverted, and Pillow takes every CMYK JPEG for one of Adobe's
        image = ImageChops.invert(image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: PILImage) -> Picture:
    samples = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits: int = tags.get(_TIFF_BITS, (16,))[0]  # a TIFF may also have 12, which Pillow leaves at 0 .. 4095
    grey: Picture = (samples >> (bits - 8)).astype(np.uint8)
    transparent = image.info.get("transparency")  # a PNG may name one grey that stands for no paint
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow ignores at 16 bits
        np.subtract(255, grey, out=grey)
    return grey


def _upright(picture: Picture, orientation: int) -> Picture:
    if orientation not in _ORIENTATIONS:  # 1, absent, or a value that EXIF does not define
        return picture
    swap, flip_rows, flip_columns = _ORIENTATIONS[orientation]
    if swap:
        picture = picture.swapaxes(0, 1)
    if flip_rows:
        picture = picture[::-1]
    if flip_columns:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


_loading = threading.Lock()
_loaders = 0  # threads inside _complete_files_only
_found_set = False  # what the first of them found the switch to be


@contextmanager
def _complete_files_only() -> Iterator[None]:
    """Hold Pillow's process-wide switch that pads files cut short with grey at off, and give it back as it was.

    While any thread decodes here, the rest of the process sees the switch off too.
    """
    global _loaders, _found_set
    from PIL import ImageFile

    with _loading:
        if _loaders == 0:
            _found_set = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _loaders += 1
    try:
        yield
    finally:
        with _loading:
            _loaders -= 1
            if _loaders == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _found_set


def _as_picture_array(source: Any) -> Picture:
    if hasattr(source, "__array_interface__") or hasattr(source, "__array__") or isinstance(source, memoryview):
        array = np.asarray(source)
    elif hasattr(source, "__dlpack__"):
        array = np.from_dlpack(source)
    else:
        raise ImageError(
            f"{type(source).__name__} is no picture",
            help="pass a path, the bytes of a file, a PIL image or an (H, W, C) uint8 array",
        )
    if np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            f"the picture is {array.dtype}, and float means already preprocessed",
            help="call the model itself, `model(images)`, or pass the picture as uint8",
        )
    if array.dtype != np.uint8:
        raise ImageError(f"the picture is {array.dtype}, expected uint8", help="16-bit samples are `(v >> 8)` of ours")
    shape = array.shape
    if array.size == 0:
        raise ImageError(f"the picture has no pixels: its shape is {shape}")
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        raise ImageError(f"the picture has shape {shape}, expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    channels_first, channels_last = shape[0] in (1, 3, 4), shape[2] in (1, 3, 4)
    if channels_first and channels_last:
        raise ImageError(
            f"the picture has shape {shape}, which reads as (H, W, C) and as (C, H, W)",
            help="pass a PIL image: `PIL.Image.fromarray(array)`",
        )
    if channels_first:
        raise ImageError(
            f"the picture has shape {shape}, which looks like (C, H, W)",
            help="pass (H, W, C): `array.transpose(1, 2, 0)`",
        )
    if not channels_last:
        raise ImageError(f"the picture has {shape[2]} channels, expected 1, 3 or 4")
    return array
