"""Class names: ImageNet's 1000 and 1001, Fashion-MNIST's ten, a user's file; and the k most probable of them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError, NetworkError, nearest

IMAGENET_1000: tuple[str, ...]
"""`tench` .. `toilet tissue`, in the order of the WordNet ids. Read from the package when first used."""
IMAGENET_1001: tuple[str, ...]
"""`background`, then IMAGENET_1000: the classes of slim's v2 checkpoints."""
WORDNET_IDS: tuple[str, ...]
"""`n01440764` .. `n15075141`: the WordNet 3.0 id of every class of IMAGENET_1000."""

FASHION_10 = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)  # Fashion-MNIST's own spelling, labels 0 to 9

BACKGROUND = "background"

_MAX_FILE = 1_000_000  # bytes; ImageNet's names are 15 000


class Prediction(NamedTuple):
    class_index: int  # `index` is a method of every tuple
    label: str
    probability: float


def __getattr__(name: str) -> tuple[str, ...]:
    if name == "IMAGENET_1000":
        return _imagenet()[1]
    if name == "IMAGENET_1001":
        return (BACKGROUND, *_imagenet()[1])
    if name == "WORDNET_IDS":
        return _imagenet()[0]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    text = resources.files(__package__).joinpath("data/imagenet_1000.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    ids, names = zip(*rows, strict=True)
    return ids, names


def labels_for(classes: int) -> tuple[str, ...]:
    """Return the names of a network's classes, as far as their number tells.

    >>> labels_for(1000)[0], labels_for(1001)[:2], labels_for(3)
    ('tench', ('background', 'tench'), ('0', '1', '2'))

    Args:
        classes: how many there are. 1000 and 1001 are taken for ImageNet's; any other number only gives the index.
    """
    if classes == 1000:
        return _imagenet()[1]
    if classes == 1001:
        return (BACKGROUND, *_imagenet()[1])
    return tuple(str(index) for index in range(classes))


def read_labels(path: str | os.PathLike[str], classes: int) -> tuple[str, ...]:
    """Read class names from a text file, one a line, class 0 first.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    ...     _ = file.write("cat\\ndog\\n")
    ...     file.flush()
    ...     read_labels(file.name, classes=2)
    ('cat', 'dog')

    Args:
        path: UTF-8 text; a byte order mark, Windows line ends and a line end after the last name are fine.
        classes: how many names there have to be.

    Raises:
        NetworkError: no such file, not a regular file, over 1 MB, not text, an empty line, or another number of names
            than classes.
    """
    path = Path(path)
    try:
        data = _read_file(path)
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        names = os.listdir(path.parent) if path.parent.is_dir() else []
        raise NetworkError(f"no labels file `{path}`", help=nearest(path.name, names) or None) from error
    except UnicodeDecodeError as error:
        raise NetworkError(f"`{path.name}` is not UTF-8 text: byte {error.start}") from error
    except OSError as error:
        raise NetworkError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from error
    # Line ends of every system, but not U+2028, at which splitlines would split too.
    lines = io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True).split("\n")
    if lines[-1] == "":
        lines.pop()
    labels = tuple(line.strip() for line in lines)
    empty = [f"line {number}" for number, label in enumerate(labels, 1) if not label]
    if empty:
        raise NetworkError(f"`{path.name}` has empty lines, and every line names a class", found=empty)
    if len(labels) != classes:
        raise NetworkError(
            f"{classes} classes in the network, {len(labels)} names in `{path.name}`",
            help=_count_help(len(labels), classes),
        )
    return labels


def _read_file(path: Path) -> bytes:
    if "\0" in str(path):
        raise NetworkError(f"`{path}` cannot be a file: its name has a NUL character")
    # Not to wait for a pipe that nobody writes to.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
            raise NetworkError(f"`{path}` cannot be read: is a {kind}")
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise NetworkError(f"`{path.name}` is larger than 1 MB, which no list of class names is")
    return data


def _count_help(names: int, classes: int) -> str | None:
    if (names, classes) == (1000, 1001):
        return f"ImageNet heads with 1001 classes keep index 0 for `{BACKGROUND}`: make that the first line"
    if (names, classes) == (1001, 1000):
        return f"ImageNet heads with 1000 classes have no `{BACKGROUND}`: leave that line out"
    return None


def top_k(probabilities: ArrayLike, k: int = 5, labels: Sequence[str] | None = None) -> list[Prediction]:
    """Return the k most probable classes of one picture, most probable first; of equals, the lower index first.

    >>> top_k([0.1, 0.7, 0.2], k=2, labels=["cat", "dog", "owl"])
    [Prediction(class_index=1, label='dog', probability=0.7), Prediction(class_index=2, label='owl', probability=0.2)]

    Args:
        probabilities: (classes,) of any float type; logits do as well.
        k: how many, at least 1; with fewer classes than that, all of them.
        labels: the name of every class; `labels_for(classes)` when None.

    Raises:
        InputError: not one row of finite numbers, or k below 1.
        NetworkError: another number of labels than classes.
    """
    row = np.asarray(probabilities)
    if row.ndim != 1 or not row.size:
        raise InputError(f"probabilities have shape {row.shape}, expected (classes,)")
    return top_k_rows(row[None], k, labels)[0]


def top_k_rows(probabilities: ArrayLike, k: int = 5, labels: Sequence[str] | None = None) -> list[list[Prediction]]:
    """Return `top_k` of every row.

    >>> [row[0].label for row in top_k_rows([[0.9, 0.1], [0.2, 0.8]], k=1, labels=["cat", "dog"])]
    ['cat', 'dog']

    Args:
        probabilities: (N, classes) of any float type.
        k, labels: as `top_k` has them.

    Raises:
        InputError, NetworkError: as `top_k` does; a row with NaN or infinity is an error, never a class.
    """
    rows = np.asarray(probabilities)
    if rows.ndim != 2:
        raise InputError(f"probabilities have shape {rows.shape}, expected (N, classes)")
    if k < 1:
        raise InputError(f"`k` is {k}, expected at least 1")
    classes = rows.shape[1]
    labels = labels_for(classes) if labels is None else labels
    if len(labels) != classes:
        raise NetworkError(
            f"{classes} classes in the network, {len(labels)} labels", help=_count_help(len(labels), classes)
        )
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if broken.size:
        raise InputError("probabilities hold NaN or infinity", found=[f"row {row}" for row in broken.tolist()])
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    best: list[list[Any]] = np.take_along_axis(rows, order, axis=1).tolist()
    return [
        [Prediction(index, labels[index], probability) for index, probability in zip(indices, values, strict=True)]
        for indices, values in zip(order.tolist(), best, strict=True)
    ]
