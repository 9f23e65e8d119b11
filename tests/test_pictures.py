"""Every kind of picture, every kind of damage, and every array that could be read two ways."""

import io
import os
import random
import subprocess
import sys
import threading
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from resforward import pictures
from resforward.errors import ImageError
from resforward.pictures import read_picture

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
LOSSLESS = ("PNG", "WEBP", "BMP", "TIFF")
ORIENTATION = 0x0112


def photo(height=48, width=64, channels=3):
    """Smooth, so that JPEG changes it little; no two corners alike."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return (y * 3 + x * 2 * (c % 2) + (c == 2) * 90).astype(np.uint8)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    if format == "WEBP":
        options = {"lossless": True, "exact": True} | options
    image.save(file, format, **options)
    return file.getvalue()


def oriented(image, format, orientation, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, format, exif=exif.tobytes(), **options)


def png_header(width, height, depth=8, colour=2):
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind, data):
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    ihdr = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, colour, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", LOSSLESS)
def test_path_bytes_image_and_array_are_the_same_picture(tmp_path, format):
    array = photo()
    image = Image.fromarray(array)
    data = encoded(image, format)
    path = tmp_path / "пример 照片.dat"  # the name says nothing of the format
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data), image, array):
        picture = read_picture(source)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, array)


@pytest.mark.parametrize("format", ["JPEG", "GIF"])
def test_lossy_formats_are_read_as_pillow_reads_them(format):
    data = encoded(Image.fromarray(photo()), format)
    np.testing.assert_array_equal(read_picture(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_file_is_closed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(photo())))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        read_picture(path)
    path.rename(tmp_path / "b.png")


def test_rgb_array_comes_back_as_it_is_and_is_not_written_to():
    array = photo()
    array.flags.writeable = False
    assert np.shares_memory(read_picture(array), array)


def test_array_views_are_read():
    array = photo(50, 70)
    np.testing.assert_array_equal(read_picture(array[::-1, ::2]), array[::-1, ::2])
    grey = photo(50, 70, 1)
    np.testing.assert_array_equal(read_picture(memoryview(grey), mode="L"), grey)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_arrays_are_read_as_the_images_that_they_are(channels, mode):
    array = photo(30, 40, channels)
    image = Image.fromarray(array[:, :, 0] if channels == 1 else array)
    np.testing.assert_array_equal(read_picture(array, mode), read_picture(image, mode))


def test_grey_arrays_have_two_spellings():
    grey = photo(30, 40, 1)
    np.testing.assert_array_equal(read_picture(grey), read_picture(grey[:, :, 0]))


class Dlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_is_read():
    np.testing.assert_array_equal(read_picture(Dlpack(photo())), photo())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 40, 3), np.uint8), "reads as (H, W, C) and as (C, H, W)"),
        (np.zeros((1, 40, 1), np.uint8), "reads as (H, W, C) and as (C, H, W)"),
        (np.zeros((3, 40, 50), np.uint8), "array.transpose(1, 2, 0)"),
        (np.zeros((40, 50, 2), np.uint8), "2 channels"),
        (np.zeros((40, 50, 5), np.uint8), "5 channels"),
        (np.zeros((2, 40, 50, 3), np.uint8), "shape (2, 40, 50, 3)"),
        (np.zeros(40, np.uint8), "shape (40,)"),
        (np.zeros((0, 50, 3), np.uint8), "no pixels"),
        (np.zeros((40, 50, 3), np.float32), "float means already preprocessed"),
        (np.zeros((40, 50, 3), np.float64), "call the model itself"),
        (np.zeros((40, 50, 3), np.uint16), "uint16, expected uint8"),
        (np.zeros((40, 50), bool), "bool, expected uint8"),
        ([[0, 0], [0, 0]], "list is no picture"),
        (None, "NoneType is no picture"),
        (7, "int is no picture"),
        (io.BytesIO(b"abc"), "BytesIO is no picture"),
    ],
)
def test_arrays_and_objects_that_are_no_picture(array, words):
    with pytest.raises(ImageError) as caught:
        read_picture(array)
    assert words in str(caught.value)


def test_pillow_is_imported_only_when_a_picture_is_read():
    program = (
        "import sys, numpy as np, resforward.preprocess as p, resforward.labels;"
        "assert not any(name.split('.')[0] == 'PIL' for name in sys.modules);"
        "p.INCEPTION_299.describe()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_grey_becomes_three_equal_channels(format):
    image = Image.fromarray(photo(channels=1)[:, :, 0])
    picture = read_picture(encoded(image, format))
    assert picture.shape == (48, 64, 3)
    assert (picture == picture[:, :, :1]).all()
    np.testing.assert_array_equal(read_picture(encoded(image, format), mode="L"), picture[:, :, :1])


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(format):
    bits = photo(channels=1)[:, :, 0] > 100
    picture = read_picture(encoded(Image.fromarray(bits), format))
    np.testing.assert_array_equal(picture, np.where(bits[:, :, None], 255, 0).repeat(3, 2))


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_becomes_rgb(format):
    image = Image.fromarray(photo()).quantize(16)
    np.testing.assert_array_equal(read_picture(encoded(image, format)), np.asarray(image.convert("RGB")))


def on_white(rgba):
    """The definition, in exact numbers."""
    alpha = rgba[:, :, 3:] / 255
    return rgba[:, :, :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(format):
    rgba = photo(channels=4)
    rgba[:8, :, 3] = 0
    rgba[8:16, :, 3] = 255
    picture = read_picture(encoded(Image.fromarray(rgba), format))
    np.testing.assert_allclose(picture, on_white(rgba), rtol=0, atol=0.51)  # rounded to the nearest
    assert (picture[:8] == 255).all()
    np.testing.assert_array_equal(picture[8:16], rgba[8:16, :, :3])


def test_grey_with_alpha_is_composited_on_white():
    la = photo(channels=2)
    expected = on_white(la[:, :, [0, 0, 0, 1]])
    for source in (Image.fromarray(la), encoded(Image.fromarray(la), "PNG")):
        np.testing.assert_allclose(read_picture(source), expected, rtol=0, atol=0.51)
        np.testing.assert_allclose(read_picture(source, mode="L"), expected[:, :, :1], rtol=0, atol=0.51)


def test_transparent_palette_entries_become_white():
    indices = (np.arange(48 * 64).reshape(48, 64) % 4).astype(np.uint8)
    image = Image.frombytes("P", (64, 48), indices.tobytes())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    palette = np.array([[10, 20, 30], [40, 50, 60], [255, 255, 255], [100, 110, 120]])
    np.testing.assert_array_equal(read_picture(encoded(image, "PNG", transparency=2)), palette[indices])
    np.testing.assert_array_equal(read_picture(encoded(image, "GIF", transparency=2)), palette[indices])
    half = encoded(image, "PNG", transparency=bytes([255, 255, 0, 255]))
    np.testing.assert_array_equal(read_picture(half), palette[indices])


def test_transparent_colour_becomes_white():
    array = photo()
    array[5, 5] = (1, 2, 3)
    picture = read_picture(encoded(Image.fromarray(array), "PNG", transparency=(1, 2, 3)))
    assert picture[5, 5].tolist() == [255, 255, 255]
    grey = np.full((9, 9), 7, np.uint8)
    grey[4, 4] = 8
    picture = read_picture(encoded(Image.fromarray(grey), "PNG", transparency=7))
    assert np.unique(picture[4, 4]).tolist() == [8]
    assert np.unique(picture[0]).tolist() == [255]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_sixteen_bits_are_scaled_not_clipped(mode):
    samples = (np.arange(256 * 256, dtype=np.uint32) * 257 >> 8).reshape(256, 256).astype(np.uint16)
    expected = (samples >> 8).astype(np.uint8)[:, :, None]
    order = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2"}[mode]
    image = Image.frombytes(mode, (256, 256), samples.astype(order).tobytes())
    np.testing.assert_array_equal(read_picture(image, mode="L"), expected)
    np.testing.assert_array_equal(read_picture(image), expected.repeat(3, 2))


@pytest.mark.parametrize(("mode", "format"), [("I;16", "PNG"), ("I;16B", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF")])
def test_sixteen_bit_files_are_scaled_not_clipped(mode, format):
    samples = np.arange(0, 65536, 17).astype(np.uint16)[:3600].reshape(60, 60)
    image = Image.frombytes(mode, (60, 60), samples.astype({"I;16": "<u2", "I;16B": ">u2"}[mode]).tobytes())
    np.testing.assert_array_equal(read_picture(encoded(image, format), mode="L")[:, :, 0], samples >> 8)


def test_sixteen_bit_white_is_zero():
    samples = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = Image.frombytes("I;16", (16, 16), samples.tobytes())
    data = encoded(image, "TIFF")
    photometric = b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00"  # tag 262, SHORT, count 1, value 1 = BlackIsZero
    assert data.count(photometric) == 1
    inverted = data.replace(photometric, photometric[:-2] + b"\0\0")
    np.testing.assert_array_equal(read_picture(inverted, "L")[:, :, 0], 255 - (samples >> 8))


def test_sixteen_bit_transparent_grey_becomes_white():
    samples = np.array([[5, 6], [7, 40000]], np.uint16)
    image = Image.frombytes("I;16", (2, 2), samples.tobytes())
    assert read_picture(encoded(image, "PNG", transparency=6), "L").ravel().tolist() == [0, 255, 0, 40000 >> 8]


def test_sixteen_bit_rgb_png_keeps_its_high_bytes():
    samples = (np.arange(6 * 4 * 3, dtype=np.uint32) * 907 % 65536).astype(">u2").reshape(4, 6, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    data = png_header(6, 4, depth=16).replace(_idat(b""), _idat(rows))
    np.testing.assert_array_equal(read_picture(data), samples >> 8)


def _idat(raw):
    data = zlib.compress(raw)
    return len(data).to_bytes(4) + b"IDAT" + data + zlib.crc32(b"IDAT" + data).to_bytes(4)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bit_samples_are_refused(mode):
    for source in (Image.new(mode, (5, 5)), encoded(Image.new(mode, (5, 5)), "TIFF")):
        with pytest.raises(ImageError, match="32-bit samples"):
            read_picture(source)


def test_adobe_cmyk_jpeg_is_read_by_its_inverted_inks():
    image = Image.fromarray(photo()).convert("CMYK")
    data = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in data
    np.testing.assert_allclose(read_picture(data), photo(), rtol=0, atol=6)  # JPEG at its best quality


def without_adobe(data):
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]


def test_cmyk_jpeg_without_adobes_mark_has_straight_inks():
    cmyk = Image.fromarray(photo()).convert("CMYK")
    straight = without_adobe(encoded(inverted(cmyk), "JPEG", quality=100))
    np.testing.assert_allclose(read_picture(straight), photo(), rtol=0, atol=6)


def inverted(image):
    return Image.frombytes(image.mode, image.size, (255 - np.asarray(image)).tobytes())


def test_ycck_jpeg_is_read_as_the_cmyk_that_it_is():
    """YCCK holds the CMYK samples as YCbCr of R = 255 - C, G = 255 - M, B = 255 - Y (libjpeg, jdcolor.c)."""
    rgb = photo()
    black = np.zeros_like(rgb[:, :, :1])
    inks = np.concatenate([255 - rgb, black], 2)  # straight; Adobe stores 255 - ink
    stored = 255 - inks
    ycc = np.asarray(Image.fromarray(255 - stored[:, :, :3]).convert("YCbCr"))
    # Pillow inverts what it saves as CMYK; hand it the inverse of the samples that the file is to hold
    samples = np.concatenate([ycc, stored[:, :, 3:]], 2)
    data = encoded(Image.frombytes("CMYK", (64, 48), (255 - samples).tobytes()), "JPEG", quality=100)
    mark = data.index(b"Adobe")
    assert data[mark + 11] == 0  # the colour transform: 0 for CMYK, 2 for YCCK
    data = data[: mark + 11] + b"\x02" + data[mark + 12 :]
    np.testing.assert_allclose(read_picture(data), rgb, rtol=0, atol=6)


def test_cmyk_and_lab_tiff():
    pale = photo() // 2 + 64  # LAB in 8 bits is coarse where colours are deep
    image = Image.fromarray(pale)
    np.testing.assert_array_equal(read_picture(encoded(image.convert("CMYK"), "TIFF")), pale)
    srgb = ImageCms.createProfile("sRGB")
    lab = ImageCms.profileToProfile(image, srgb, ImageCms.createProfile("LAB"), outputMode="LAB")
    np.testing.assert_allclose(read_picture(encoded(lab, "TIFF")), pale, rtol=0, atol=6)


# --- orientation and frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(format, orientation):
    data = oriented(Image.fromarray(photo()), format, orientation)
    picture = read_picture(data)
    assert picture.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(read_picture(Image.open(io.BytesIO(data))), expected)
    if format == "PNG" and orientation > 1:
        assert not np.array_equal(picture, photo())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_turns_the_scene_upright(orientation):
    """Where the first row and column lie, from the EXIF standard: 1 top left, 2 top right, 3 bottom right, ..."""
    scene = photo()
    rows, columns = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    stored = scene.swapaxes(0, 1) if rows in ("left", "right") else scene
    stored = stored[::-1] if rows in ("bottom", "right") else stored
    stored = stored[:, ::-1] if columns in ("right", "bottom") else stored
    stored = Image.fromarray(np.ascontiguousarray(stored))
    np.testing.assert_array_equal(read_picture(oriented(stored, "PNG", orientation)), scene)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_define_is_none(orientation):
    data = oriented(Image.fromarray(photo()), "PNG", orientation)
    np.testing.assert_array_equal(read_picture(data), photo())


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_many_frames(format):
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (50, 100, 150)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_picture(data), np.asarray(frames[0]))


def test_the_first_picture_of_an_mpo():
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (50, 150)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_picture(data), np.asarray(frames[0]))


# --- what is refused -------------------------------------------------------------------------------------------------

NOT_PICTURES = [
    (b"", "is empty"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
    (b"\xef\xbb\xbf\n <HTML>", "HTML page"),
    (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    (b"<svg/>", "SVG"),
    (b'<?xml version="1.0"?><note/>', "XML"),
    (b"%PDF-1.7\n%", "PDF"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
    (b"\0\0\0\x18ftypmp42\0\0\0\0", "MP4"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"8BPS\0\1", "Photoshop"),
    (b"PK\3\4rest", "zip"),
    (b"\x1f\x8b\x08rest", "gzip"),
    (b"\x93NUMPY\1\0", "NumPy"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "`git lfs pull` fetches it"),
    (b"hello, world", "starts with the bytes 68 65 6c 6c 6f 2c 20 77"),
    (b"\xff", "starts with the bytes ff"),
]


@pytest.mark.parametrize(("data", "words"), NOT_PICTURES)
def test_what_is_no_picture_is_named(tmp_path, data, words):
    path = tmp_path / "cat.jpg"
    path.write_bytes(data)
    for source, name in ((path, "`cat.jpg`"), (data, "the file given as bytes")):
        with pytest.raises(ImageError) as caught:
            read_picture(source)
        assert words in str(caught.value)
        assert caught.value.message.startswith(name)


def test_missing_file_suggests_a_near_name(tmp_path):
    (tmp_path / "cat_01.jpg").write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read_picture(tmp_path / "cat_1.jpg")
    assert caught.value.help == "the nearest is `cat_01.jpg`"
    with pytest.raises(ImageError, match="has a name like it"):
        read_picture(tmp_path / "zebra.png")
    with pytest.raises(ImageError, match="cannot be listed"):
        read_picture(tmp_path / "no folder" / "cat_1.jpg")
    with pytest.raises(ImageError, match="download the picture first"):
        read_picture("https://example.org/cat.jpg")


def test_folder_and_impossible_names(tmp_path):
    with pytest.raises(ImageError, match="is a directory"):
        read_picture(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_picture("cat\0.jpg")
    with pytest.raises(ImageError):
        read_picture("x" * 5000)


def test_too_many_pixels_are_refused_from_the_header():
    for width, height in ((10_001, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(ImageError, match="refused before decoding"):
            read_picture(png_header(width, height))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="10001 x 10000 pixels: more than 100 megapixels"):
            read_picture(png_header(10_001, 10_000))
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_picture(png_header(1, 100_000))  # long, but small: refused only because it holds no pixels


def test_our_limit_holds_where_pillows_is_lifted(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="100000 x 100000 pixels"):
        read_picture(png_header(100_000, 100_000))


def test_a_film_is_refused_without_reading_all_of_it(tmp_path, monkeypatch):
    path = tmp_path / "film.jpg"
    with path.open("wb") as file:
        file.write(b"\0\0\0\x18ftypmp42")
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ImageError, match="MP4"):
        read_picture(path)
    monkeypatch.setattr(pictures, "_MAX_FILE", 5000)
    path.write_bytes(encoded(Image.fromarray(photo())) + bytes(5000))
    with pytest.raises(ImageError, match="larger than 1 GiB"):
        read_picture(path)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_switch", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_short_is_an_error_or_the_whole_picture(format, padding_switch, monkeypatch):
    """`padding_switch`: the host program asked Pillow to pad such files with grey; that is not for our pictures."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", padding_switch)
    data = encoded(Image.fromarray(photo()), format)
    whole = read_picture(data)
    refused = 0
    for length in range(0, len(data), max(1, len(data) // 150)):
        try:
            picture = read_picture(data[:length])
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(picture, whole)
    assert refused >= 100 if len(data) > 150 else refused >= 0.6 * len(data)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is padding_switch


def test_a_tiff_that_declares_more_rows_than_it_has_is_an_error():
    data = encoded(Image.fromarray(photo()), "TIFF")
    height = b"\x01\x01\x04\x00\x01\x00\x00\x00"  # tag 257, LONG, count 1
    assert data.count(height) == 1
    at = data.index(height) + len(height)
    with pytest.raises(ImageError, match="it holds 3072 of 64000 samples"):
        read_picture(data[:at] + (1000).to_bytes(4, "little") + data[at + 4 :])


def tiff(width, height, blocks, tags):
    """A little-endian TIFF of raw blocks, strips or tiles (tags 324, 325); RGB unless `tags` say otherwise."""
    offsets, counts = (324, 325) if 322 in tags else (273, 279)
    tags = {256: [width], 257: [height], 258: [8, 8, 8], 259: [1], 262: [2], 277: [3]} | tags
    tags |= {offsets: [0] * len(blocks), counts: [len(block) for block in blocks]}
    values_at = 8 + 2 + 12 * len(tags) + 4
    blocks_at = values_at + sum(4 * len(values) for values in tags.values())
    tags[offsets] = [blocks_at + sum(tags[counts][:i]) for i in range(len(blocks))]
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = b"".join(number.to_bytes(4, "little") for number in numbers)
        inline = packed if len(numbers) == 1 else (values_at + len(values)).to_bytes(4, "little")
        entries += tag.to_bytes(2, "little") + b"\4\0" + len(numbers).to_bytes(4, "little") + inline
        values += packed  # unused for a single number, which keeps the offsets plain
    header = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little")
    return header + entries + bytes(4) + values + b"".join(blocks)


def test_twelve_bit_tiff_is_scaled_too():
    samples = np.arange(0, 4096, 64).reshape(8, 8)
    packed = b"".join((int(a) << 12 | int(b)).to_bytes(3) for a, b in samples.reshape(-1, 2))
    data = tiff(8, 8, [packed], {258: [12], 262: [1], 277: [1], 278: [8]})
    np.testing.assert_array_equal(read_picture(data, "L")[:, :, 0], samples >> 4)


def test_tiff_in_strips_tiles_and_planes():
    array = photo(50, 70)
    strips = [array[y : y + 8].tobytes() for y in range(0, 50, 8)]
    padded = np.pad(array, ((0, 14), (0, 10), (0, 0)))  # tiles of 16 x 16 reach beyond the picture
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in range(0, 64, 16) for x in range(0, 80, 16)]
    planes = [array[y : y + 8, :, c].tobytes() for c in range(3) for y in range(0, 50, 8)]
    for blocks, tags in ((strips, {278: [8]}), (tiles, {322: [16], 323: [16]}), (planes, {278: [8], 284: [2]})):
        np.testing.assert_array_equal(read_picture(tiff(70, 50, blocks, tags)), array)
        with pytest.raises(ImageError, match="it holds"):
            read_picture(tiff(70, 50, blocks[:-1], tags))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_half_a_jpeg_is_an_error(options):
    data = encoded(Image.fromarray(photo(300, 400)), "JPEG", **options)
    for length in (len(data) // 2, len(data) * 9 // 10, len(data) - 10):
        with pytest.raises(ImageError, match="damaged or cut short"):
            read_picture(data[:length])


def test_a_lazy_pil_image_cut_short_is_an_error(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(Image.fromarray(photo(300, 400)), "JPEG")
    with pytest.raises(ImageError, match="the PIL image is damaged or cut short"):
        read_picture(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_the_padding_switch_is_given_back_by_the_last_of_many_threads(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(Image.fromarray(photo(200, 300)), "JPEG")
    accepted = []

    def work():
        for i in range(20):
            try:
                read_picture(data[: len(data) // 2] if i % 2 else data)
            except ImageError:
                continue
            accepted.append(i % 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert accepted == [0] * 80
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def mutants(data, count, seed):
    """Flipped, overwritten, removed, repeated and cut bytes, mostly near the front, where the structure is."""
    rng = random.Random(seed)
    for _ in range(count):
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = int(len(out) * rng.random() ** 2)
            match rng.randrange(5):
                case 0:
                    out[at] ^= 1 << rng.randrange(8)
                case 1:
                    out[at : at + 4] = rng.choice(
                        (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80")
                    )
                case 2:
                    del out[at : at + rng.randrange(1, 9)]
                case 3:
                    out[at:at] = out[at : at + rng.randrange(1, 40)]
                case _:
                    del out[max(20, at) :]
        yield bytes(out)


SEEDS = {
    "jpeg": lambda: oriented(Image.fromarray(photo()), "JPEG", 6),
    "progressive jpeg": lambda: encoded(Image.fromarray(photo()), "JPEG", progressive=True),
    "cmyk jpeg": lambda: encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
    "png": lambda: oriented(Image.fromarray(photo(channels=4)), "PNG", 3),
    "palette png": lambda: encoded(Image.fromarray(photo()).quantize(16), "PNG", transparency=3),
    "16-bit png": lambda: encoded(Image.new("I;16", (20, 30), 999), "PNG", transparency=5),
    "webp": lambda: oriented(Image.fromarray(photo()), "WEBP", 5),
    "lossy webp": lambda: encoded(Image.fromarray(photo(channels=4)), "WEBP", lossless=False),
    "bmp": lambda: encoded(Image.fromarray(photo()), "BMP"),
    "gif": lambda: encoded(Image.fromarray(photo()), "GIF"),
    "tiff": lambda: oriented(Image.fromarray(photo()), "TIFF", 7),
    "deflated tiff": lambda: encoded(Image.fromarray(photo()), "TIFF", compression="tiff_adobe_deflate"),
    "16-bit tiff": lambda: encoded(Image.new("I;16B", (20, 30), 999), "TIFF"),
}


@pytest.mark.parametrize("kind", SEEDS)
def test_hostile_bytes_give_a_picture_or_an_image_error(kind):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow warns of what it repairs; as errors they would hide the rest of its code
        for data in mutants(SEEDS[kind](), 80, seed=kind):
            with suppress(ImageError):  # anything else fails the test
                picture = read_picture(data)
                assert picture.dtype == np.uint8
                assert picture.ndim == 3
                assert picture.shape[2] == 3


@given(st.binary(max_size=200))
def test_random_bytes_are_no_picture(data):
    with pytest.raises(ImageError):
        read_picture(data)


def test_warnings_turned_into_errors_are_image_errors():
    """Under `python -W error`, as in these tests, what Pillow warns of comes out as an ImageError too."""
    for kind in ("tiff", "jpeg"):
        for data in mutants(SEEDS[kind](), 80, seed=kind):
            with suppress(ImageError):
                read_picture(data)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="is a pipe"):
        read_picture(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="is a device"):
        read_picture("/dev/zero")
    with pytest.raises(ImageError, match="is a directory"):
        read_picture(tmp_path)
