"""TensorFlow's first checkpoint format: a table whose values are SavedTensorSlices, one file or `x-?????-of-?????`.

The record with the empty key lists every tensor; every other record holds the values of one slice (tensorflow:
core/util/saved_tensor_slice.proto, core/util/tensor_slice_writer.cc). Keys need no decoding: names are in the values.

    SavedTensorSlices      meta = 1, data = 2
    SavedTensorSliceMeta   tensor = 1 (repeated SavedSliceMeta), versions = 2
    SavedSliceMeta         name = 1, shape = 2, type = 3, slice = 4 (repeated)
    SavedSlice             name = 1, slice = 2, data = 3 (a TensorProto with neither dtype nor shape)

The format has no checksum but the blocks' own.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from resforward.checkpoints import protobuf, tf_table
from resforward.checkpoints.arrays import BFLOAT16, Array, Contents, byte_size, frozen, view
from resforward.checkpoints.files import File, Folder
from resforward.checkpoints.tf_tensor import (
    Box,
    Meta,
    Slice,
    assemble,
    box,
    check_cover,
    check_version,
    data_type,
    shape_of,
    slice_of,
)
from resforward.errors import CheckpointError

NAME = "TensorFlow V1 table"
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})", re.DOTALL)
_MAX_SHARDS = 1024

# Field of TensorProto that holds each dtype, and the wire type of one value (core/framework/tensor.proto;
# which dtype goes where: core/util/saved_tensor_slice_util.h). Complex numbers are pairs of floats.
_FLOATS = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
_INTEGERS = {
    "int32": 7,
    "int16": 7,
    "int8": 7,
    "uint8": 7,
    "uint16": 7,
    "int64": 10,
    "bool": 11,
    "float16": 13,
    "bfloat16": 13,
    "uint32": 16,
    "uint64": 17,
}


def recognises(file: File) -> bool:
    """Tell whether a file is a table whose first record is a SavedTensorSlices."""
    first = next(tf_table.records(file), None) if tf_table.is_table(file) else None
    return first is not None and first.key == b"" and bytes(first.value[:1]) == b"\x0a"


def read(folder: Folder, name: str) -> Contents:
    """Read a V1 checkpoint from its file, or from any of its shards.

    >>> sorted(read(DiskFolder(Path("models")), "resnet_v1_50.ckpt").tensors)[0]  # doctest: +SKIP
    'resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/BatchNorm/beta'

    Raises:
        CheckpointError: a shard is missing, or a file is damaged.
    """
    metas: dict[str, Meta] = {}
    parts: dict[str, list[tuple[Box, Array]]] = {}
    file = folder.open(name)
    for shard in _shards(folder, name):
        file = folder.open(shard)
        _read_file(file, metas, parts)
    contents = Contents({}, {})
    for tensor, meta in metas.items():
        if meta.dtype is None:
            contents.skipped[tensor] = meta.dtype_name
        else:
            where = f"tensor `{tensor}`"
            check_cover([place for place, _ in parts[tensor]], meta.shape, file, where)
            contents.tensors[tensor] = assemble(meta.shape, meta.dtype, parts[tensor], file, where)
    return contents


def _shards(folder: Folder, name: str) -> list[str]:
    """Name every file of a checkpoint, or raise CheckpointError for those that are missing."""
    match = _SHARD.fullmatch(name)
    if not match or match["shards"] == "00000":
        return [name]
    count = int(match["shards"])
    if count > _MAX_SHARDS:
        raise CheckpointError(f"`{name}` is one of {count} files", found=[f"at most {_MAX_SHARDS} are read"])
    names = [f"{match['prefix']}-{shard:05d}-of-{count:05d}" for shard in range(count)]
    missing = [f"`{each}` is missing" for each in names if not folder.has(each)]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {count} files of `{match['prefix']}` are not in `{folder.name}`",
            found=missing,
            help="the files of one checkpoint lie side by side: copy or download the others too",
        )
    return names


def _read_file(file: File, metas: dict[str, Meta], parts: dict[str, list[tuple[Box, Array]]]) -> None:
    """Add what one file holds; a tensor may have slices in several."""
    promised: set[tuple[str, Box]] = set()
    for record in tf_table.records(file):
        for number, wire, _, message in protobuf.fields(record.value, file, record.where):
            protobuf.expect(wire, protobuf.BYTES, number, file, record.where)
            if number == 1 and record.key == b"":
                for name, meta in _tensors(message, file, record.where):
                    where = f"tensor `{name}`"
                    known = metas.setdefault(name, meta)
                    if known[:3] != meta[:3]:
                        raise file.damaged(f"{where} is listed twice", f"{known[:3]}", f"{meta[:3]}")
                    parts.setdefault(name, [])
                    for piece in meta.slices:
                        place = box(piece, meta.shape, file, where)
                        if (name, place) in promised:
                            raise file.damaged(f"{where} lists the same slice twice", f"{place}")
                        promised.add((name, place))
            elif number == 2:
                name, piece, values = _slice(message, file, record.where)
                where = f"tensor `{name}`"
                if name not in metas:
                    raise file.damaged(f"{record.where}: {where} is not in its list of tensors")
                meta = metas[name]
                place = box(piece, meta.shape, file, where)
                if (name, place) not in promised:
                    raise file.damaged(
                        f"{where} has a slice that is not in its list, or the same one twice", f"{place}"
                    )
                promised.remove((name, place))
                if meta.dtype is not None:
                    parts[name].append((place, _values(values, meta.dtype, place.lengths, file, where)))
    if promised:
        lacking = [f"tensor `{name}` lacks {place}" for name, place in promised]
        raise file.damaged(f"{len(lacking)} slices that it lists are not there", *lacking)


def _tensors(message: memoryview, file: File, where: str) -> list[tuple[str, Meta]]:
    """Read a SavedTensorSliceMeta."""
    tensors = []
    seen = set()
    for number, wire, _, data in protobuf.fields(message, file, where):
        if number == 2:
            protobuf.expect(wire, protobuf.BYTES, number, file, where)
            check_version(data, file)
        if number != 1:
            continue
        protobuf.expect(wire, protobuf.BYTES, number, file, where)
        name, kind = "", 0
        shape: tuple[int, ...] = ()
        slices: list[Slice] = []
        for inner, inner_wire, value, inner_data in protobuf.fields(data, file, where):
            if inner in (1, 2, 4):
                protobuf.expect(inner_wire, protobuf.BYTES, inner, file, where)
            if inner == 1:
                name = protobuf.text(inner_data, file, where)
            elif inner == 2:
                shape = shape_of(inner_data, file, f"tensor `{name}`")
            elif inner == 3:
                protobuf.expect(inner_wire, protobuf.VARINT, inner, file, where)
                kind = value
            elif inner == 4:
                slices.append(slice_of(inner_data, file, f"tensor `{name}`"))
        if name in seen:
            raise file.damaged(f"tensor `{name}` is listed twice")
        seen.add(name)
        dtype, dtype_name = data_type(kind, file, f"tensor `{name}`")
        byte_size(shape, dtype or np.dtype("u1"), file, f"tensor `{name}`")
        tensors.append((name, Meta(dtype, dtype_name, shape, slices)))
    return tensors


def _slice(message: memoryview, file: File, where: str) -> tuple[str, Slice, memoryview]:
    """Read a SavedSlice: a name, which slice, and a TensorProto."""
    name, values = "", memoryview(b"")
    piece: Slice = ()
    for number, wire, _, data in protobuf.fields(message, file, where):
        if number in (1, 2, 3):
            protobuf.expect(wire, protobuf.BYTES, number, file, where)
        if number == 1:
            name = protobuf.text(data, file, where)
        elif number == 2:
            piece = slice_of(data, file, where)
        elif number == 3:
            values = data
    return name, piece, values


def _values(message: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], file: File, where: str) -> Array:
    """Read the values of a TensorProto: a view of the file for packed floats, which is how TensorFlow writes them."""
    kind = dtype.names[0] if dtype.names else dtype.name
    wanted = _FLOATS.get(kind) or _INTEGERS[kind]
    packed: list[memoryview] = []
    single: list[int] = []
    for number, wire, value, data in protobuf.fields(message, file, where):
        if number != wanted:
            continue
        if kind in _INTEGERS and wire == protobuf.VARINT:
            single.append(value)
        else:
            one = protobuf.FIXED64 if kind in ("float64", "complex128") else protobuf.FIXED32
            protobuf.expect(wire, one if wire == one and kind in _FLOATS else protobuf.BYTES, number, file, where)
            packed.append(data)
    if kind in _FLOATS:
        if len(packed) != 1:  # unpacked fields, or several runs: legal, never seen
            file.budget.take_bytes(sum(map(len, packed)), f"`{file.name}`: {where}")
            packed = [memoryview(b"".join(packed))]
        return view(packed[0], shape, dtype, file, where)
    numbers = [protobuf.packed_varints(data, file, where) for data in packed]
    numbers.append(np.array([protobuf.signed(value) for value in single], np.int64))
    return _integers(np.concatenate(numbers), dtype, shape, file, where)


def _integers(numbers: Array, dtype: np.dtype[Any], shape: tuple[int, ...], file: File, where: str) -> Array:
    """Give decoded varints their dtype, or raise CheckpointError for values that it cannot hold."""
    if len(numbers) != math.prod(shape):
        raise file.damaged(f"{where} has {len(numbers)} values", f"shape {shape} takes {math.prod(shape)}")
    file.budget.take_bytes(byte_size(shape, dtype, file, where), f"`{file.name}`: {where}")
    bits = np.dtype("<u2") if dtype in (BFLOAT16, np.dtype("<f2")) else dtype  # half_val holds the bits of a half
    wide = numbers.view(np.uint64) if dtype == np.dtype("<u8") else numbers
    values = wide.astype(bits)
    if (values != wide).any():
        raise file.damaged(f"{where} holds a value that is no {bits.name}", f"{wide[values != wide][0]}")
    return frozen(values.view(dtype).reshape(shape))
