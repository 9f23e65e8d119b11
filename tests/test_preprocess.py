"""Preprocessing equals slim's own, as TensorFlow computes it, to the bit (golden/make_preprocess.py), and Pillow's.

Other families' rows are compared with their libraries in test_library_preprocess.py.
"""

import dataclasses
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from golden.make_preprocess import CROPS, FILE, FRACTIONS, PICTURES, RESIZES, ROUNDING, digest, key, picture, sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resforward.errors import ImageError, NetworkError
from resforward.geometry import RULES, shorter_side_floor, shorter_side_rint, shorter_side_round, squash
from resforward.preprocess import (
    FASHION_28,
    INCEPTION_299,
    KERAS_CAFFE_224,
    PRESETS,
    TIMM_95_224,
    TIMM_224,
    TORCHVISION_224,
    VGG_224,
    Preprocess,
    from_timm,
)
from resforward.resize import KERNELS, Box, tf1_bilinear

ROWS = tuple(PRESETS.values())
SIDES = st.integers(1, 2000)


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def assert_same_bits(ours, golden, name):
    np.testing.assert_array_equal(sparse(ours), golden[name])  # shows where, before the digest says that
    assert digest(ours) == str(golden[f"{name}_sha256"])


def test_golden_file_says_who_made_it(golden):
    assert [version.split()[0] for version in golden["versions"].tolist()] == ["tensorflow", "numpy"]


# --- tf1_bilinear ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), RESIZES)
def test_tf1_bilinear_equals_tensorflow_on_uint8(golden, shape, size):
    assert_same_bits(tf1_bilinear(picture(*shape), size), golden, key("resize_u8", shape, size))


@pytest.mark.parametrize(("shape", "size"), RESIZES)
def test_tf1_bilinear_equals_tensorflow_on_float32(golden, shape, size):
    unit = picture(*shape).astype(np.float32) * np.float32(1 / 255)
    name = key("resize_f32", shape, size)
    assert_same_bits(tf1_bilinear(unit, size), golden, name)
    assert_same_bits(tf1_bilinear(picture(*shape), size, scale=1 / 255), golden, name)


def test_tf1_bilinear_leaves_its_input_alone():
    image = picture(37, 53).astype(np.float32)
    image.flags.writeable = False
    before = image.copy()
    tf1_bilinear(image, (20, 30))
    np.testing.assert_array_equal(image, before)


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_resize_to_the_same_size_changes_nothing(height, width):
    image = picture(height, width)
    for kernel in KERNELS.values():
        np.testing.assert_array_equal(kernel(image, (height, width), Box(0, 0, height, width), 1.0), image)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 255))
def test_resize_keeps_a_flat_picture_flat(height, width, new_height, new_width, value):
    image = np.full((height, width, 3), value, np.uint8)
    for kernel in KERNELS.values():
        assert np.all(kernel(image, (new_height, new_width), Box(0, 0, new_height, new_width), 1.0) == value)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_window_is_a_part_of_the_whole(height, width, new_height, new_width, data):
    top = data.draw(st.integers(0, new_height - 1))
    left = data.draw(st.integers(0, new_width - 1))
    box = Box(top, left, data.draw(st.integers(1, new_height - top)), data.draw(st.integers(1, new_width - left)))
    image = picture(height, width)
    for kernel in KERNELS.values():
        whole = kernel(image, (new_height, new_width), Box(0, 0, new_height, new_width), 1.0)
        np.testing.assert_array_equal(kernel(image, (new_height, new_width), box, 1.0), box.of(whole))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 60), st.integers(1, 60))
def test_tf1_bilinear_treats_rows_and_columns_alike(height, width, new_height, new_width):
    image = picture(height, width, 1).astype(np.float32)
    along = tf1_bilinear(image, (new_height, new_width))
    across = tf1_bilinear(image.swapaxes(0, 1), (new_width, new_height)).swapaxes(0, 1)
    # columns are mixed before rows, so swapping them reorders six roundings of values up to 255
    np.testing.assert_allclose(along, across, rtol=0, atol=6 * 255 * 2**-24)


@pytest.mark.parametrize("kind", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_pil_kernels_are_pillows_own(kind):
    image = picture(61, 47)
    for size in ((20, 30), (70, 47), (1, 99)):
        expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling[kind.upper()]))
        np.testing.assert_array_equal(KERNELS[f"pil_{kind}"](image, size, Box(0, 0, *size), 1.0), expected)


@pytest.mark.parametrize("divisor", [255, 127.5])
def test_pil_kernels_scale_as_a_division_does(divisor):
    image = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    scaled = KERNELS["pil_nearest"](image, (1, 256), Box(0, 0, 1, 256), 1 / divisor)
    np.testing.assert_array_equal(scaled, image.astype(np.float32) / np.float32(divisor))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_mirrored_pictures_come_out_mirrored(height, width, new_height, new_width):
    image = picture(height, width)
    for name in ("pil_bilinear", "pil_hamming", "pil_bicubic", "pil_lanczos"):  # the others choose a side at a tie
        ours = KERNELS[name](image, (new_height, new_width), Box(0, 0, new_height, new_width), 1.0)
        for axis in (0, 1):
            flipped = KERNELS[name](
                np.flip(image, axis), (new_height, new_width), Box(0, 0, new_height, new_width), 1.0
            )
            # sums in another order may round a half the other way, once across and once down
            np.testing.assert_allclose(np.flip(flipped, axis), ours, rtol=0, atol=2)


# --- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_squash_cuts_where_tensorflow_cuts(golden, fraction):
    ours = [squash(side, side, (299, 299), fraction).source for side in CROPS]
    assert [[box.top, box.height] for box in ours] == golden[key("crop", fraction)].tolist()


@given(SIDES, SIDES, st.integers(1, 400), st.integers(1, 400), st.floats(0.05, 1))
def test_every_rule_stays_inside_what_it_cuts_from(height, width, new_height, new_width, crop):
    for rule in RULES.values():
        frame = rule(height, width, (new_height, new_width), crop)
        assert frame.window[2:] == (new_height, new_width)
        for box, (rows, columns) in ((frame.source, (height, width)), (frame.window, frame.resized)):
            assert box.top >= 0
            assert box.left >= 0
            assert box.height >= 1
            assert box.width >= 1
            assert box.top + box.height <= rows
            assert box.left + box.width <= columns


@given(SIDES, SIDES)
def test_shorter_side_becomes_256(height, width):
    for rule in (shorter_side_rint, shorter_side_floor, shorter_side_round):
        assert min(rule(height, width, (224, 224), 0.875).resized) == 256


@pytest.mark.parametrize(
    ("height", "width", "resized", "start"),
    [
        (500, 375, (341, 256), (58, 16)),  # 117 / 2 = 58.5 rounds to the even 58
        (375, 500, (256, 341), (16, 58)),
        (300, 402, (256, 343), (16, 60)),  # 119 / 2 = 59.5 rounds to the even 60
        (256, 256, (256, 256), (16, 16)),
    ],
)
def test_shorter_side_floor_is_torchvisions(height, width, resized, start):
    frame = shorter_side_floor(height, width, (224, 224), 0.875)
    assert frame.resized == resized
    assert (frame.window.top, frame.window.left) == start


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), PICTURES)
def test_inception_equals_slim(golden, height, width):
    image = Image.fromarray(picture(height, width))
    assert_same_bits(INCEPTION_299(image), golden, key("inception", height, width))


@pytest.mark.parametrize(("height", "width"), PICTURES)
def test_vgg_equals_slim(golden, height, width):
    image = Image.fromarray(picture(height, width))
    assert_same_bits(VGG_224(image), golden, key("vgg", height, width))


def test_vgg_rounds_sides_in_float32_as_slim_does(golden):
    row = dataclasses.replace(VGG_224, size=(280, 280))
    assert_same_bits(row(Image.fromarray(picture(*ROUNDING))), golden, key("vgg", *ROUNDING, 280))


def test_keras_caffe_is_bgr_minus_means():
    image = np.full((300, 300, 3), (10, 20, 30), np.uint8)
    np.testing.assert_array_equal(
        KERAS_CAFFE_224(image)[0, 0], np.float32([30, 20, 10]) - np.float32(KERAS_CAFFE_224.mean)
    )


@given(st.integers(1, 400), st.integers(1, 400), st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=5, deadline=None)
def test_a_flat_picture_is_the_formula_of_its_colour(height, width, colour):
    image = np.full((height, width, 3), colour, np.uint8)
    for name, row in PRESETS.items():
        out = row(Image.fromarray(image))
        assert np.all(out == out[0, 0]), name
        pixel = np.float64(colour) if row.channels == "rgb" else np.float64(colour[::-1])
        if row.channels != "grey":
            # three roundings: of x / 255 or x, of the difference, of the quotient
            atol = 3 * 2**-24 * (255 * row.scale + max(row.mean)) / min(row.std)
            expected = (pixel * row.scale - row.mean) / row.std
            np.testing.assert_allclose(out[0, 0], expected, rtol=0, atol=atol, err_msg=name)


def test_fashion_normalises_grey():
    grey = picture(28, 28, 1)
    expected = (grey.astype(np.float32) / np.float32(255) - np.float32(0.2860)) / np.float32(0.3530)
    np.testing.assert_array_equal(FASHION_28(grey), expected)
    np.testing.assert_array_equal(FASHION_28(grey[:, :, 0]), expected)
    np.testing.assert_array_equal(FASHION_28(grey.repeat(3, 2)), expected)  # luma of a grey is that grey
    assert FASHION_28(picture(300, 200)).shape == (28, 28, 1)


@pytest.mark.parametrize("row", ROWS)
def test_rows_give_float32_of_their_size(row):
    for shape in ((17, 301), (640, 480), (1, 1)):
        out = row(Image.fromarray(picture(*shape)))
        assert out.shape == (*row.size, row.input_channels)
        assert out.dtype == np.float32
        assert out.flags.c_contiguous
        assert out.flags.writeable


@pytest.mark.parametrize("row", ROWS)
def test_size_can_be_replaced(row):
    assert dataclasses.replace(row, size=(97, 130))(picture(50, 80)).shape == (97, 130, row.input_channels)


@pytest.mark.parametrize("row", ROWS)
def test_rows_survive_json(row):
    again = Preprocess.from_dict(json.loads(json.dumps(dataclasses.asdict(row))))
    assert again == row
    assert hash(again) == hash(row)


def test_describe_names_what_matters():
    rows = [INCEPTION_299, VGG_224, KERAS_CAFFE_224, TORCHVISION_224, PRESETS["keras_tf_nearest_299"], FASHION_28]
    rows.append(dataclasses.replace(PRESETS["onnx_zoo_224"], geometry="squash_then_cut"))
    assert [row.describe() for row in rows] == [
        "rgb, central 87.5%, tf1_bilinear to 299x299 (aspect not kept), (x / 255 - 0.5) / 0.5",
        "rgb, shorter side to 256 (rint), tf1_bilinear, central 224x224, (x - [123.68, 116.78, 103.94])",
        "bgr, shorter side to 256 (floor), pil_bilinear, central 224x224, (x - [103.939, 116.779, 123.68])",
        "rgb, shorter side to 256 (floor), pil_bilinear, central 224x224, "
        "(x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
        "rgb, whole picture, pil_nearest to 299x299 (aspect not kept), (x / 127.5 - 1)",
        "grey, whole picture, pil_bicubic to 28x28 (aspect not kept), (x / 255 - 0.286) / 0.353",
        "rgb, whole picture, pil_bilinear to 256x256 (aspect not kept), central 224x224, "
        "(x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
    ]


def test_the_documentation_lists_every_row():
    text = (Path(__file__).parents[1] / "docs" / "preprocessing.md").read_text()
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == list(PRESETS)
    assert re.findall(r"^\* `(\w+)`", text, re.MULTILINE) == list(RULES)


def test_batch_is_its_pictures(tmp_path):
    images = [picture(300, 200), Image.fromarray(picture(90, 400)), tmp_path / "a.png"]
    Image.fromarray(picture(50, 60)).save(images[2])
    out = VGG_224.batch(images)
    assert out.shape == (3, 224, 224, 3)
    for one, image in zip(out, images, strict=True):
        np.testing.assert_array_equal(one, VGG_224(image))
    assert VGG_224.batch([]).shape == (0, 224, 224, 3)


def test_batch_names_every_picture_that_is_none():
    with pytest.raises(ImageError, match="2 of 3 pictures cannot be read") as caught:
        INCEPTION_299.batch([b"", picture(50, 50), b"%PDF-1.7"])
    assert [line.partition(":")[0] for line in caught.value.found] == ["picture 0", "picture 2"]


def test_a_very_long_picture_costs_little_with_tf1_and_is_refused_with_pil():
    ribbon = np.tile(np.arange(200, dtype=np.uint8)[:, None], 5000).reshape(1, -1)  # 1 x 1,000,000, grey
    for row in (VGG_224, INCEPTION_299):  # VGG's would be 256 x 256,000,000
        tracemalloc.start()
        assert row(ribbon).shape == (*row.size, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * 3 * ribbon.size  # RGB: the copies that decoding makes, and no picture of 256 rows
    with pytest.raises(ImageError, match="would be resized to 256 x 256000000"):
        TORCHVISION_224(ribbon)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (224,)}, "`size`"),
        ({"size": (0, 224)}, "`size`"),
        ({"size": (1 << 40, 1 << 40)}, "`size`"),
        ({"size": (224.0, 224.0)}, "`size`"),
        ({"kernel": "tf_bilinear"}, "the nearest are `tf1_bilinear`, `pil_bilinear`"),
        ({"geometry": "stretch"}, "`geometry`"),
        ({"channels": "rbg"}, "`channels`"),
        ({"channels": "grey"}, "`mean` has 3 values, expected 1"),
        ({"crop": 0.0}, "`crop`"),
        ({"crop": 1e-300}, "`crop`"),
        ({"crop": float("nan")}, "`crop`"),
        ({"scale": float("inf")}, "`scale`"),
        ({"mean": (0.0, 0.0, float("nan"))}, "`mean`"),
        ({"mean": (0, 10**400, 0)}, "`mean`"),
        ({"mean": (0.0, 1e39, 0.0)}, "`mean`"),  # more than float32 holds
        ({"std": (1.0, 0.0, 1.0)}, "`std`"),
        ({"std": (1.0, 1e-50, 1.0)}, "`std`"),  # less than float32 holds
    ],
)
def test_a_row_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(NetworkError) as caught:
        dataclasses.replace(VGG_224, **change)
    assert words in str(caught.value)


@pytest.mark.parametrize("change", [{"size": 5}, {"mean": "abc"}, {"crop": "x"}, {"kernel": [[]]}, {"std": None}])
def test_a_stored_row_of_wrong_types_is_refused(change):
    with pytest.raises(NetworkError):
        Preprocess.from_dict(dataclasses.asdict(VGG_224) | change)


def test_a_stored_row_names_missing_and_unknown_fields():
    row = dataclasses.asdict(VGG_224)
    row["meen"] = row.pop("mean")
    with pytest.raises(NetworkError) as caught:
        Preprocess.from_dict(row)
    assert caught.value.found == ("`mean` is missing", "`meen` is unknown")


# --- timm's config.json ----------------------------------------------------------------------------------------------


def test_a_config_without_a_word_is_timm_s_default():
    assert from_timm({}) == TIMM_224
    assert from_timm({"pretrained_cfg": dict.fromkeys(("input_size", "mean", "crop_pct", "interpolation"))}) == TIMM_224


def test_the_test_size_is_taken_when_asked_for_and_there():
    config = {"input_size": [3, 160, 160], "crop_pct": 0.9, "test_input_size": [3, 224, 224], "test_crop_pct": 0.95}
    assert from_timm(config) == dataclasses.replace(TIMM_95_224, size=(160, 160), crop=0.9)
    assert from_timm(config, test_size=True) == TIMM_95_224
    assert from_timm(config | {"test_crop_pct": None}, test_size=True) == dataclasses.replace(TIMM_95_224, crop=0.9)
    assert from_timm({"crop_pct": 0.95}, test_size=True) == TIMM_95_224


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interpolation": "random"}, "`interpolation` is 'random', expected one of nearest, box, bilinear"),
        ({"interpolation": ["bicubic"]}, "`interpolation`"),
        ({"crop_mode": "border"}, "`crop_mode` is 'border', expected center or squash"),
        ({"crop_mode": {"center": 1}}, "`crop_mode`"),
        ({"crop_pct": 1.1}, "`crop_pct` is 1.1, expected a fraction, 0.001 to 1"),
        ({"crop_pct": float("nan")}, "`crop_pct`"),
        ({"crop_pct": "0.9"}, "`crop_pct`"),
        ({"input_size": [1, 224, 224]}, "`input_size` is [1, 224, 224], expected [3, side, side]"),
        ({"input_size": [3, 224, 320]}, "`input_size`"),
        ({"input_size": [3, 224.0, 224.0]}, "`input_size`"),
        ({"input_size": 224}, "`input_size`"),
        ({"input_size": [3, 1 << 40, 1 << 40]}, "`size`"),
        ({"mean": [0.5]}, "`mean` is [0.5], expected three numbers"),
        ({"mean": [0.5, None, 0.5]}, "`mean`"),
        ({"mean": [0.5, float("inf"), 0.5]}, "`mean`"),
        ({"mean": [0.5, 10**400, 0.5]}, "`mean`"),
        ({"std": [0.5, 0, 0.5]}, "`std` is [0.5, 0, 0.5], expected three numbers above 0"),
        ({"std": "abc"}, "`std`"),
    ],
)
def test_a_config_that_is_not_known_is_refused(change, words):
    with pytest.raises(NetworkError) as caught:
        from_timm({"pretrained_cfg": change})
    assert words in str(caught.value)
    assert len(caught.value.found) == 1


def test_every_misfit_of_a_config_is_listed():
    config = {"test_input_size": [4, 9, 9], "crop_mode": "border", "interpolation": "area", "std": [1, 1]}
    with pytest.raises(NetworkError) as caught:
        from_timm(config, test_size=True)
    assert [line.split()[0] for line in caught.value.found] == [
        "`test_input_size`",
        "`interpolation`",
        "`crop_mode`",
        "`std`",
    ]


@pytest.mark.parametrize("config", [None, [], "resnet50", {"pretrained_cfg": None}, {"pretrained_cfg": [1]}])
def test_what_is_no_config_is_refused(config):
    with pytest.raises(NetworkError, match="timm's config is"):
        from_timm(config)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["bicubic", "squash", "x", ""])
JSON = LEAVES | st.lists(LEAVES | st.lists(LEAVES, max_size=2), max_size=4) | st.fixed_dictionaries({"x": LEAVES})
FIELDS = ("input_size", "test_input_size", "crop_pct", "test_crop_pct", "crop_mode", "interpolation", "mean", "std")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)), st.booleans())
def test_whatever_a_config_says_is_a_row_or_refused(config, test_size):
    try:
        answer = from_timm(config, test_size=test_size).describe()
    except NetworkError as error:
        answer = error.found
    assert answer
