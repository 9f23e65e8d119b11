"""Class names, files of them, and the most probable."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from resforward import labels
from resforward.errors import InputError, NetworkError
from resforward.labels import FASHION_10, labels_for, read_labels, top_k, top_k_rows


def test_imagenet_has_a_thousand_distinct_names_in_the_order_of_their_ids():
    assert len(labels.IMAGENET_1000) == len(labels.WORDNET_IDS) == 1000
    assert len({name.casefold() for name in labels.IMAGENET_1000}) == 1000
    assert list(labels.WORDNET_IDS) == sorted(labels.WORDNET_IDS)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in labels.WORDNET_IDS)
    assert all(name == name.strip() and name.isascii() and name for name in labels.IMAGENET_1000)


@pytest.mark.parametrize(
    ("index", "wnid", "name"),
    [
        (0, "n01440764", "tench"),
        (1, "n01443537", "goldfish"),
        (134, "n02012849", "crane (bird)"),
        (207, "n02099601", "golden retriever"),
        (282, "n02123159", "tiger cat"),
        (517, "n03126707", "crane (machine)"),
        (768, "n04118538", "rugby ball"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_well_known_classes(index, wnid, name):
    assert (labels.WORDNET_IDS[index], labels.IMAGENET_1000[index]) == (wnid, name)
    assert labels_for(1000)[index] == labels_for(1001)[index + 1] == labels.IMAGENET_1001[index + 1] == name


def test_background_comes_first_of_1001():
    assert labels_for(1001)[0] == labels.IMAGENET_1001[0] == "background"
    assert len(labels_for(1001)) == 1001


def test_ten_classes_are_not_taken_for_fashion():
    assert labels_for(10) == tuple("0123456789")
    assert len(FASHION_10) == 10


def test_unknown_names_of_the_module_are_attribute_errors():
    with pytest.raises(AttributeError, match="IMAGENET_21K"):
        _ = labels.IMAGENET_21K


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"cat\ndog", b"cat\ndog\n", b"cat\r\ndog\r\n", b"\xef\xbb\xbfcat\ndog\n", b" cat\ndog "]
)
def test_spellings_of_a_labels_file(tmp_path, data):
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    assert read_labels(path, 2) == ("cat", "dog")


def test_labels_in_any_script(tmp_path):
    path = tmp_path / "labels.txt"
    names = ("кот", "狗", "owl\u2028barn")  # a line separator that is no line end
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_labels(str(path), 3) == names


def test_1000_names_against_1001_classes_and_back(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(labels.IMAGENET_1000))
    with pytest.raises(NetworkError) as caught:
        read_labels(path, 1001)
    assert str(caught.value) == (
        "1001 classes in the network, 1000 names in `labels.txt`\n"
        "help: ImageNet heads with 1001 classes keep index 0 for `background`: make that the first line"
    )
    path.write_text("\n".join(labels.IMAGENET_1001))
    with pytest.raises(NetworkError, match="leave that line out"):
        read_labels(path, 1000)
    path.write_text("a\nb\nc\n")
    with pytest.raises(NetworkError) as caught:
        read_labels(path, 7)
    assert caught.value.help is None


def test_the_background_help_is_for_imagenet_alone(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a\nb\n")
    for classes in (1, 3):
        with pytest.raises(NetworkError) as caught:
            read_labels(path, classes)
        assert caught.value.help is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"cat\n\ndog\n\n", "- line 2\n  - line 4"),
        (b"", "0 names"),
        (b"\xff\xd8\xff\xe0", "not UTF-8 text: byte 0"),
    ],
)
def test_files_that_are_no_labels(tmp_path, data, words):
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(NetworkError) as caught:
        read_labels(path, 2)
    assert words in str(caught.value)


def test_missing_labels_file_suggests_a_near_name(tmp_path):
    (tmp_path / "labels.txt").write_text("cat")
    with pytest.raises(NetworkError, match=r"the nearest is `labels\.txt`"):
        read_labels(tmp_path / "label.txt", 1)
    with pytest.raises(NetworkError):
        read_labels(tmp_path / "nowhere" / "label.txt", 1)
    with pytest.raises(NetworkError, match="cannot be read"):
        read_labels(tmp_path, 1)


def test_labels_come_from_a_small_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NetworkError, match="is a pipe"):
        read_labels(tmp_path / "pipe", 1)
    with pytest.raises(NetworkError, match="is a device"):
        read_labels("/dev/zero", 1)
    with pytest.raises(NetworkError, match="has a NUL character"):
        read_labels("a\0b", 1)
    (tmp_path / "long").write_bytes(b"a" * 1_000_001)
    with pytest.raises(NetworkError, match="larger than 1 MB"):
        read_labels(tmp_path / "long", 1)


# --- the most probable -----------------------------------------------------------------------------------------------


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_top_k_is_a_stable_sort(rows):
    for k in (1, 3, 20):
        for row, found in zip(rows, top_k_rows(rows, k), strict=True):
            expected = sorted(range(row.size), key=lambda index: (-row[index], index))[:k]
            assert [prediction.class_index for prediction in found] == expected
            assert [prediction.probability for prediction in found] == row[expected].tolist()
            assert found == top_k(row, k)


def test_top_k_gives_plain_python_values():
    [(index, label, probability)] = top_k(np.float32([0.25, 0.75]), k=1)
    assert (type(index), type(label), type(probability)) == (int, str, float)


def test_top_k_names_imagenet():
    logits = np.zeros(1001, np.float32)
    logits[208] = 1
    assert top_k(logits, 2) == [(208, "golden retriever", 1.0), (0, "background", 0.0)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_a_class(value):
    rows = np.zeros((3, 4), np.float32)
    rows[1, 2] = value
    with pytest.raises(InputError) as caught:
        top_k_rows(rows)
    assert caught.value.found == ("row 1",)


@pytest.mark.parametrize(
    ("shape", "k", "names"), [((2, 3), 1, None), ((), 1, None), ((0,), 1, None), ((3,), 0, None), ((3,), 1, ("a",))]
)
def test_top_k_misuse(shape, k, names):
    with pytest.raises((InputError, NetworkError)):
        top_k(np.zeros(shape), k, names)
