"""NumPy's archives: a zip of one `.npy` file for each array, as BiT was published.

    b"\\x93NUMPY" | version, two bytes | length of the header, two bytes or four | header | numbers

(numpy: lib/format.py, versions 1 to 3.) The header is a Python literal of three items, which is taken apart here and
never evaluated: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`. An array of objects is a pickle behind
it, and refused; text, dates and records are no weights, and skipped. Entries of `np.savez` are stored as they are, so
arrays are views of the file; those of `np.savez_compressed` are unpacked.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import numpy as np

from resforward.checkpoints import zips
from resforward.checkpoints.arrays import Array, Contents, view
from resforward.checkpoints.files import File, Folder
from resforward.errors import CheckpointError

NAME = "NumPy archive"
_NPY = b"\x93NUMPY"
_ENDING = ".npy"
_LENGTHS: dict[tuple[int, ...], struct.Struct] = {
    (1, 0): struct.Struct("<H"),
    (2, 0): struct.Struct("<I"),
    (3, 0): struct.Struct("<I"),
}
_STEPS_AN_ENTRY = 16  # what a header costs, compared with a record or an opcode
_MAX_HEADER = 10_000  # NumPy's own limit; a record of many fields could take more
# NumPy sorts the items, and those who write the format beside it do as it does.
_HEADER = re.compile(
    r"\{'descr': *(?P<descr>'[^'\n]{1,40}'|\[.*\]), *'fortran_order': *(?P<turned>True|False),"
    r" *'shape': *\((?P<shape>(?:[0-9][0-9, L]*)?)\),? *\} *\n?",
    re.DOTALL,
)
_SIZE = re.compile(r" *([0-9]{1,18})L? *")  # Python 2 wrote `3L`
_NUMBERS = re.compile(r"[<>|]?(f[248]|[iu][1248]|b1)")
_OBJECTS = "O"
_NO_WEIGHTS = {
    "U": "text",
    "S": "text",
    "a": "text",
    "M": "dates",
    "m": "durations",
    "[": "records",
    "V": "values of no known kind",  # bfloat16 of ml_dtypes is one
    "c": "complex numbers",
    "f": "numbers of a size that is not read",
}


class _Header(NamedTuple):
    descr: str
    turned: bool  # the first dimension is the fastest
    shape: tuple[int, ...]


def begins(head: bytes) -> bool:
    """Tell from a file's first bytes whether it is a zip whose first entry is an array.

    >>> begins(zips.MAGIC + bytes(22) + b"\\x05\\0\\0\\0" + b"a.npy" + _NPY)
    True
    """
    size = int.from_bytes(head[26:28], "little")
    return head.startswith(zips.MAGIC) and head[30 : 30 + size].endswith(_ENDING.encode())


def recognises(file: File) -> bool:
    """Tell whether a file begins as `np.savez` begins it, however long the first name."""
    return begins(bytes(file.data[: 30 + (1 << 16)]))


def read(folder: Folder, name: str) -> Contents:
    """Read the arrays of a `.npz` file.

    >>> read(DiskFolder(Path("models")), "BiT-M-R50x1.npz").tensors["resnet/head/conv2d/bias"].shape  # doctest: +SKIP
    (21843,)

    Raises:
        CheckpointError: the archive or an array is damaged, or holds objects, which are pickles.
    """
    file = folder.open(name)
    contents = Contents({}, {})
    entries = zips.entries(file)
    file.budget.take_steps(len(entries) * _STEPS_AN_ENTRY, f"`{file.name}`")
    for entry in entries.values():
        where = f"entry `{entry.name[:80]}`"
        if not entry.name.endswith(_ENDING):
            contents.skipped[entry.name] = "no array"
            continue
        data = zips.contents(entry, file)
        header, start = _header(data, file, where)
        array = _array(header, data[start:], file, where)
        if isinstance(array, str):
            contents.skipped[entry.name.removesuffix(_ENDING)] = array
        else:
            contents.tensors[entry.name.removesuffix(_ENDING)] = array
    return contents


def _header(data: memoryview, file: File, where: str) -> tuple[_Header, int]:
    """Take a header apart; return it, and where the numbers begin."""
    if bytes(data[: len(_NPY)]) != _NPY:
        raise file.damaged(f"{where} is no NumPy array", f"it begins with {bytes(data[:6]).hex(' ')}")
    at = len(_NPY) + 2
    version = tuple(data[len(_NPY) : at])
    length = _LENGTHS.get(version)
    if len(data) < at + (length.size if length else 0):
        raise file.damaged(f"{where} is cut short")
    if length is None:
        raise file.damaged(f"{where} has version {'.'.join(map(str, version))}", "1.0, 2.0 and 3.0 are known")
    (size,) = length.unpack_from(data, at)
    start = at + length.size + size
    if size > _MAX_HEADER or start > len(data):
        raise file.damaged(f"{where} claims a header of {size} bytes", f"it has {len(data)}; at most {_MAX_HEADER}")
    text = bytes(data[at + length.size : start]).decode("utf-8" if version == (3, 0) else "latin-1", "replace")
    said = _HEADER.fullmatch(text)
    listed = said["shape"].strip().removesuffix(",") if said else ""
    sizes = [_SIZE.fullmatch(size) for size in listed.split(",")] if listed else []
    if said is None or None in sizes:
        raise file.damaged(f"{where} has a header that NumPy does not write", f"{text[:80]!r}")
    shape = tuple(int(size[1]) for size in sizes if size)
    return _Header(said["descr"].strip("'"), said["turned"] == "True", shape), start


def _array(header: _Header, numbers: memoryview, file: File, where: str) -> Array | str:
    """Show the numbers, or say what is there instead."""
    kind = header.descr.lstrip("<>|")[:1]
    if kind == _OBJECTS:
        raise CheckpointError(
            f"refused `{file.name}`: {where} holds Python objects, a pickle, which can run code",
            help="save arrays of numbers alone: np.savez(path, **arrays)",
        )
    if not _NUMBERS.fullmatch(header.descr):
        if kind not in _NO_WEIGHTS:
            raise file.damaged(f"{where} has a type that NumPy does not know", f"{header.descr[:40]!r}")
        return _NO_WEIGHTS[kind]
    shape = header.shape[::-1] if header.turned else header.shape
    array = view(numbers, shape, np.dtype(header.descr), file, where)
    return array.T if header.turned else array
