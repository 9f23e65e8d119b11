"""What both TensorFlow formats say about a tensor: its dtype, its shape, and the slices it was saved in.

Messages: tensorflow: core/framework/types.proto, tensor_shape.proto, tensor_slice.proto, versions.proto.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from resforward.checkpoints import protobuf
from resforward.checkpoints.arrays import BFLOAT16, Array, byte_size, frozen
from resforward.checkpoints.files import File
from resforward.errors import CheckpointError

_NUMPY: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    14: BFLOAT16,
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_NOT_NUMBERS = {
    7: "string",
    11: "qint8",
    12: "quint8",
    13: "qint32",
    15: "qint16",
    16: "quint16",
    20: "resource",
    21: "variant",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
    33: "float4_e2m1fn",
}
_READER_VERSION = 1  # tensorflow: core/util/saved_tensor_slice_util.h, core/util/tensor_bundle/tensor_bundle.cc
_MAX_SLICES = 1024  # of one tensor: overlaps are looked for pairwise

FULL = -1  # length of an extent that covers its whole dimension: core/framework/tensor_slice.h


class Extent(NamedTuple):
    """What one slice covers of one dimension, as stored: (0, FULL) is all of it."""

    start: int
    length: int


Slice = tuple[Extent, ...]


class Meta(NamedTuple):
    """What a checkpoint says of a tensor before its bytes; `dtype` is None for what is no number."""

    dtype: np.dtype[Any] | None
    dtype_name: str
    shape: tuple[int, ...]
    slices: list[Slice]


def data_type(number: int, file: File, where: str) -> tuple[np.dtype[Any] | None, str]:
    """Turn a DataType number into NumPy's dtype, None for strings and the like, and its name."""
    if number in _NUMPY:
        dtype = _NUMPY[number]
        return dtype, dtype.name if dtype.names is None else dtype.names[0]
    if number in _NOT_NUMBERS:
        return None, _NOT_NUMBERS[number]
    raise file.damaged(f"{where} has data type {number}, which TensorFlow does not define")


def shape_of(message: memoryview, file: File, where: str) -> tuple[int, ...]:
    """Read a TensorShapeProto; raise CheckpointError when a dimension is unknown."""
    dims: list[int] = []
    for number, wire, value, data in protobuf.fields(message, file, where):
        if number == 2:
            protobuf.expect(wire, protobuf.BYTES, number, file, where)
            size = 0
            for inner, inner_wire, inner_value, _ in protobuf.fields(data, file, where):
                if inner == 1:
                    protobuf.expect(inner_wire, protobuf.VARINT, inner, file, where)
                    size = protobuf.signed(inner_value)
            dims.append(size)
        elif number == 3 and value:
            raise file.damaged(f"{where} has an unknown rank")
    return tuple(dims)


def slice_of(message: memoryview, file: File, where: str) -> Slice:
    """Read a TensorSliceProto."""
    extents: list[Extent] = []
    for number, wire, _, data in protobuf.fields(message, file, where):
        if number != 1:
            continue
        protobuf.expect(wire, protobuf.BYTES, number, file, where)
        start, length = 0, FULL
        for inner, inner_wire, inner_value, _ in protobuf.fields(data, file, where):
            if inner in (1, 2):
                protobuf.expect(inner_wire, protobuf.VARINT, inner, file, where)
                if inner == 1:
                    start = protobuf.signed(inner_value)
                else:
                    length = protobuf.signed(inner_value)
        extents.append(Extent(start, length))
    return tuple(extents)


def check_version(message: memoryview, file: File) -> None:
    """Read a VersionDef; raise CheckpointError when the file asks for a newer reader."""
    for number, wire, value, data in protobuf.fields(message, file, "versions"):
        if number == 2:  # min_consumer
            protobuf.expect(wire, protobuf.VARINT, number, file, "versions")
            refused = protobuf.signed(value) > _READER_VERSION
        elif number == 3:  # bad_consumers
            bad = [value] if wire == protobuf.VARINT else protobuf.packed_varints(data, file, "versions").tolist()
            refused = _READER_VERSION in bad
        else:
            continue
        if refused:
            raise CheckpointError(
                f"`{file.name}` was written for another version of its format's reader",
                found=[f"this reader has version {_READER_VERSION}; field {number} of the file's versions excludes it"],
                help="save it again with tf.train.Saver or tf.train.Checkpoint of a current TensorFlow",
            )


class Box(NamedTuple):
    """A slice of a known shape: where it starts and how long it is, in every dimension."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]


def box(piece: Slice, shape: tuple[int, ...], file: File, where: str) -> Box:
    """Resolve a slice in its tensor.

    >>> from resforward.checkpoints.files import Budget
    >>> file = File("x.ckpt", memoryview(b""), Budget())
    >>> box((Extent(2, 2), Extent(0, FULL)), (4, 3), file, "`w`")
    Box(starts=(2, 0), lengths=(2, 3))

    Raises:
        CheckpointError: the slice has another rank, or leaves the tensor.
    """
    if len(piece) != len(shape):
        raise file.damaged(f"{where}: a slice has {len(piece)} dimensions, its tensor {len(shape)}")
    lengths = []
    for (start, length), size in zip(piece, shape, strict=True):
        if length == FULL and start == 0:
            length = size
        if start < 0 or length < 0 or start + length > size:
            raise file.damaged(f"{where}: a slice of {length} from {start} leaves a dimension of {size}")
        lengths.append(length)
    return Box(tuple(extent.start for extent in piece), tuple(lengths))


def check_cover(boxes: Sequence[Box], shape: tuple[int, ...], file: File, where: str) -> None:
    """Raise CheckpointError unless the boxes fill a tensor once: no two meet, and their volumes add up to its own."""
    if len(boxes) > _MAX_SLICES:
        raise file.damaged(f"{where} has {len(boxes)} slices", f"at most {_MAX_SLICES} are read")
    covered, total = sum(math.prod(piece.lengths) for piece in boxes), math.prod(shape)
    if covered != total:
        problem = "leave a gap" if covered < total else "overlap"
        raise file.damaged(f"{where}: its {len(boxes)} slices {problem}", f"they hold {covered} of {total} values")
    if len(boxes) < 2 or not shape:
        return
    solid = [piece for piece in boxes if all(piece.lengths)]
    starts = np.array([piece.starts for piece in solid], np.int64).reshape(-1, len(shape))
    ends = starts + np.array([piece.lengths for piece in solid], np.int64).reshape(-1, len(shape))
    for i, piece in enumerate(solid):
        meets = ((starts[i + 1 :] < ends[i]) & (starts[i] < ends[i + 1 :])).all(axis=1)
        if meets.any():
            other = solid[i + 1 + int(meets.argmax())]
            raise file.damaged(f"{where}: two of its slices overlap", f"{piece}", f"{other}")


def assemble(
    shape: tuple[int, ...], dtype: np.dtype[Any], parts: Sequence[tuple[Box, Array]], file: File, where: str
) -> Array:
    """Put the slices of one tensor together, once `check_cover` has passed them; one that covers it all is returned.

    Raises:
        CheckpointError: the tensor would take more memory than the budget.
    """
    if len(parts) == 1:
        return parts[0][1]
    file.budget.take_bytes(byte_size(shape, dtype, file, where), f"`{file.name}`: {where}")
    whole = np.empty(shape, dtype)
    for place, array in parts:
        whole[tuple(slice(s, s + n) for s, n in zip(place.starts, place.lengths, strict=True))] = array
    return frozen(whole)
