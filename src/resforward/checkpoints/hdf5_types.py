"""What HDF5 says of an array: its type and its shape (datatype and dataspace messages [IV.A.2.d, IV.A.2.b])."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from resforward.checkpoints.arrays import name_of
from resforward.checkpoints.hdf5_blocks import Blocks

Shape = tuple[int, ...]
_MAX_RANK = 8
_INTEGER, _FLOAT, _STRING, _OPAQUE, _VARIABLE = 0, 1, 3, 5, 9
_CLASSES = {
    2: "times",
    4: "bit fields",
    6: "values of a compound type",
    7: "object or region references",
    8: "an enumeration",
    9: "values of variable length",
    10: "arrays of arrays",
}
# Bits, exponent at, its size, mantissa at, its size, bias of the exponent.
_FLOATS = {
    (16, 10, 5, 0, 10, 15): "f2",
    (32, 23, 8, 0, 23, 127): "f4",
    (64, 52, 11, 0, 52, 1023): "f8",
}
_FLOAT_LAYOUT_BITS = 0b0111_1110  # padding, normalisation and VAX's byte order
_IEEE = 0b0010_0000  # no padding, the mantissa's first bit implied


class Text(NamedTuple):
    """Strings of `size` bytes each, or, for None, of any length in a global heap."""

    size: int | None


class Opaque(NamedTuple):
    """Bytes that mean nothing to HDF5; h5py stores bfloat16 so."""

    size: int


class Other(NamedTuple):
    """A type that is never read, in words."""

    what: str


Type = np.dtype[Any] | Text | Opaque | Other


def type_of(body: memoryview, blocks: Blocks, where: str) -> Type:
    """Read a datatype message; a type that is never read is no error until somebody wants it."""
    cursor = blocks.cursor(body, f"the type of {where}")
    head, low, sign, _, size = cursor.unpack("<BBBBI")
    kind, version = head & 15, head >> 4
    if version not in (1, 2, 3):
        raise blocks.file.damaged(f"the type of {where} has version {version}")
    order = "<>"[low & 1]
    if kind == _INTEGER:
        offset, bits = cursor.unpack("<HH")
        if size not in (1, 2, 4, 8) or offset or bits != 8 * size:
            return Other(f"integers of {bits} bits in {size} bytes")
        return np.dtype(f"{order}{'i' if low & 8 else 'u'}{size}")
    if kind == _FLOAT:
        offset, *form = cursor.unpack("<HHBBBBI")
        name = _FLOATS.get(tuple(form))
        if not name or offset or 8 * size != form[0] or sign != form[0] - 1 or low & _FLOAT_LAYOUT_BITS != _IEEE:
            return Other(f"floats of {form[0]} bits in a form of their own")
        return np.dtype(f"{order}{name}")
    if kind == _STRING:
        return Text(size)
    if kind == _OPAQUE:
        return Opaque(size)
    if kind == _VARIABLE and low & 15 == 1 and size == 16:
        return Text(None)
    return Other(_CLASSES.get(kind, f"values of class {kind}"))


def shape_of(body: memoryview, blocks: Blocks, where: str) -> Shape | None:
    """Read a dataspace message; None for one that holds nothing."""
    cursor = blocks.cursor(body, f"the shape of {where}")
    version, rank, flags, kind = cursor.unpack("<BBBB")
    if version == 1:
        cursor.take(4)
    if version not in (1, 2) or flags > 1:
        raise blocks.file.damaged(f"the shape of {where} has version {version}, flags {flags:#x}")
    if rank > _MAX_RANK:
        raise blocks.file.damaged(f"{where} has {rank} dimensions", f"at most {_MAX_RANK} are read")
    return None if version == 2 and kind == 2 else cursor.unpack(f"<{rank}Q")


def describe(kind: Type) -> str:
    """Say what a type holds.

    >>> describe(Text(None)), describe(np.dtype(">f4"))
    ('strings', 'float32')
    """
    if isinstance(kind, Other):
        return kind.what
    if isinstance(kind, Text):
        return "strings"
    return "opaque bytes" if isinstance(kind, Opaque) else name_of(kind)
