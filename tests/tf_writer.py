"""A small writer of TensorFlow V1 tables and V2 bundles, so that tests can craft valid and hostile files.

Written from the same descriptions as the reader, but with none of its code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c
import numpy as np

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
DATA_TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "float16": 19,
}
BFLOAT16 = 14
V1_FIELDS = {"float32": 5, "float64": 6, "int64": 10, "bool": 11, "float16": 13}

Records = list[tuple[bytes, bytes]]
Box = Sequence[tuple[int, int]]  # (start, length) per dimension


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class Fixed32(int):
    """A field of four bytes."""


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Encode a protocol buffer message: integers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        if isinstance(value, Fixed32):
            out += varint(number << 3 | 5) + struct.pack("<I", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def masked(data: bytes) -> int:
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def snappy_literal(data: bytes) -> bytes:
    """Snappy's format with nothing but literals."""
    out = varint(len(data))
    for at in range(0, len(data), 65536):
        piece = data[at : at + 65536]
        out += bytes([61 << 2]) + struct.pack("<H", len(piece) - 1) + piece
    return out


def block(contents: bytes, compression: int = 0) -> bytes:
    stored = (snappy_literal(contents) if compression else contents) + bytes([compression])
    return stored + struct.pack("<I", masked(stored))


def contents(records: Records, restart_interval: int = 16) -> bytes:
    """Prefix-compress the records of one block."""
    out, restarts, previous = b"", [], b""
    for i, (key, value) in enumerate(records):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(records: Records, *, block_size: int = 262144, compression: int = 0, sort: bool = True) -> bytes:
    """Write a table; `block_size` is the size past which a new block is begun, as in TensorFlow."""
    groups: list[Records] = [[]]
    size = 0
    for record in sorted(records) if sort else records:
        if size >= block_size:
            groups.append([])
            size = 0
        groups[-1].append(record)
        size += len(record[0]) + len(record[1])
    return table_of_blocks([(group[-1][0] if group else b"", contents(group)) for group in groups], compression)


def table_of_blocks(blocks: Iterable[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """Write a table whose blocks have these last keys and contents."""
    out, index = b"", []
    for last_key, body in blocks:
        written = block(body, compression)
        index.append((last_key, varint(len(out)) + varint(len(written) - 5)))
        out += written
    meta_at, meta = len(out), block(contents([]))
    out += meta
    index_at, index_block = len(out), block(contents(index, restart_interval=1), compression)
    return out + index_block + footer((meta_at, len(meta) - 5), (index_at, len(index_block) - 5))


def footer(meta: tuple[int, int], index: tuple[int, int]) -> bytes:
    handles = b"".join(varint(number) for handle in (meta, index) for number in handle)
    return handles.ljust(40, b"\0") + MAGIC


def shape_message(shape: Sequence[int]) -> bytes:
    return message(*((2, message((1, size))) for size in shape))


def slice_message(box: Box | None, rank: int) -> bytes:
    """A TensorSliceProto; None is the whole tensor."""
    if box is None:
        return message(*[(1, b"")] * rank)
    return message(*((1, message((1, start), (2, length))) for start, length in box))


def cut(array: np.ndarray, box: Box | None) -> np.ndarray:
    return array if box is None else array[tuple(slice(start, start + length) for start, length in box)]


def v1_values(array: np.ndarray) -> bytes:
    """A TensorProto that holds nothing but values."""
    number = V1_FIELDS.get(array.dtype.name, 7)
    if array.dtype.kind == "f" and array.dtype.itemsize > 2:
        return message((number, array.tobytes()))
    integers = array.view(np.uint16) if array.dtype == np.float16 else array
    return message((number, b"".join(varint(int(value)) for value in integers.ravel())))


def v1_records(
    tensors: Mapping[str, np.ndarray],
    slices: Mapping[str, Sequence[Box]] = {},
    *,
    all_shapes: Mapping[str, Sequence[int]] = {},
) -> Records:
    """The records of one V1 file; `all_shapes` gives the whole shape of a tensor that is only in part in this file."""
    metas, records = [], []
    for name, array in tensors.items():
        boxes = slices.get(name, [None])
        shape = all_shapes.get(name, array.shape)
        kind = DATA_TYPES[array.dtype.name]
        extents = [(4, slice_message(box, len(shape))) for box in boxes]
        metas.append((1, message((1, name.encode()), (2, shape_message(shape)), (3, kind), *extents)))
        for i, box in enumerate(boxes):
            part = slice_message(box, len(shape))
            values = v1_values(np.ascontiguousarray(cut(array, box)))
            saved = message((1, name.encode()), (2, part), (3, values))
            records.append((b"\0" + name.encode() + b"\0\1" + bytes([i >> 8, i & 255]), message((2, saved))))
    return [(b"", message((1, message(*metas, (2, message((1, 1))))))), *records]


def v1(tensors: Mapping[str, np.ndarray], slices: Mapping[str, Sequence[Box]] = {}, **options: int) -> bytes:
    """Write one V1 file."""
    return table(v1_records(tensors, slices), **options)


def ordered(value: int) -> bytes:
    """TensorFlow's OrderedCode for a signed number, here by its table of ranges rather than by bit length."""
    for size in range(1, 11):
        if -(1 << (7 * size - 1)) <= value < 1 << (7 * size - 1):
            ones = ((1 << size) - 1) << (7 * size)
            return ((value & ((1 << 8 * size) - 1)) ^ ones).to_bytes(size, "big")
    raise ValueError(value)


def slice_key(name: str, box: Box) -> bytes:
    rank = bytes([1, len(box)]) if box else bytes([0])
    return b"\0" + name.encode() + b"\0\1" + rank + b"".join(ordered(v) for pair in box for v in pair)


def entry(
    array: np.ndarray | None, shape: Sequence[int], kind: int, *, shard: int = 0, offset: int = 0, order: str = "<"
) -> bytes:
    """A BundleEntryProto."""
    data = raw(array, order) if array is not None else b""
    fields: list[tuple[int, int | bytes]] = [(1, kind), (2, shape_message(shape))]
    fields += [(number, value) for number, value in ((3, shard), (4, offset), (5, len(data))) if value]
    return message(*fields, (6, Fixed32(masked(data))))


def raw(array: np.ndarray, order: str = "<") -> bytes:
    return array.astype(array.dtype.newbyteorder(order)).tobytes()


def header(shards: int = 1, endianness: int = 0) -> bytes:
    order = [(2, endianness)] if endianness else []
    return message((1, shards), *order, (3, message((1, 1))))


def bundle(
    tensors: Mapping[str, np.ndarray],
    slices: Mapping[str, Sequence[Box]] = {},
    *,
    shards: int = 1,
    big_endian: bool = False,
    padding: int = 0,
    kinds: Mapping[str, int] = {},
    **options: int,
) -> dict[str, bytes]:
    """Write a V2 bundle as {suffix: bytes}; tensors are dealt to the data files in turn."""
    records, data = bundle_records(tensors, slices, shards=shards, big_endian=big_endian, padding=padding, kinds=kinds)
    files = {f".data-{i:05d}-of-{shards:05d}": body for i, body in enumerate(data)}
    return {".index": table(records, **options), **files}


def bundle_records(
    tensors: Mapping[str, np.ndarray],
    slices: Mapping[str, Sequence[Box]] = {},
    *,
    shards: int = 1,
    big_endian: bool = False,
    padding: int = 0,
    kinds: Mapping[str, int] = {},
) -> tuple[Records, list[bytes]]:
    """The records of an index, and the bytes of its data files."""
    order = ">" if big_endian else "<"
    data = [b""] * shards
    records: Records = [(b"", header(shards, int(big_endian)))]
    turn = 0

    def put(key: bytes, array: np.ndarray, kind: int) -> None:
        nonlocal turn
        shard, turn = turn % shards, turn + 1
        offset = len(data[shard]) + padding
        data[shard] += b"\xaa" * padding + raw(array, order)
        records.append((key, entry(array, array.shape, kind, shard=shard, offset=offset, order=order)))

    for name, array in tensors.items():
        kind = kinds.get(name) or DATA_TYPES[array.dtype.name]
        boxes = slices.get(name)
        if boxes is None:
            put(name.encode(), array, kind)
            continue
        listed = [(7, slice_message(box, array.ndim)) for box in boxes]
        records.append((name.encode(), message((1, kind), (2, shape_message(array.shape)), *listed)))
        for box in boxes:
            put(slice_key(name, box), np.ascontiguousarray(cut(array, box)), kind)
    return records, data
