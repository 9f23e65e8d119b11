"""The sorted table of string keys and values inside both kinds of TensorFlow checkpoint.

It is LevelDB's table with plain keys and no filter block (google/leveldb: doc/table_format.md; tensorflow:
core/lib/io/format.cc, core/lib/io/block.cc, core/lib/io/table_builder.cc):

    data block 1 .. N | metaindex block | index block | footer
    footer        metaindex handle, index handle (varint64 offset, varint64 size each), zeros up to 40 bytes, magic
    block         contents, one byte of compression, masked crc32c of both
    contents      entries, offset of each restart (u32), number of restarts (u32)
    entry         varint32 shared, varint32 unshared, varint32 value length, unshared key bytes, value
    index block   an entry per data block: a key not below its last key -> its handle
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c
import numpy as np

from resforward.checkpoints import snappy
from resforward.checkpoints.files import File
from resforward.checkpoints.protobuf import varint
from resforward.errors import CheckpointError

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")  # tensorflow: core/lib/io/format.h
_FOOTER = 48
_TRAILER = 5  # compression byte, crc32c
_MASK_DELTA = 0xA282EAD8  # tensorflow: core/lib/hash/crc32c.h
_NO_COMPRESSION, _SNAPPY = 0, 1


class Record(NamedTuple):
    """One key and its value, and where the value lies: for messages."""

    key: bytes
    value: memoryview
    where: str


class _Handle(NamedTuple):
    offset: int
    size: int


def is_table(file: File) -> bool:
    """Tell whether a file ends in a table's magic number."""
    return bytes(file.data[-8:]) == MAGIC


def masked_crc32c(data: memoryview) -> int:
    """Return the checksum of some bytes as tables and bundles store it.

    >>> hex(masked_crc32c(memoryview(b"123456789")))
    '0xc78ab0e5'
    """
    crc = google_crc32c.value(np.frombuffer(data, np.uint8)) if len(data) else 0  # an array is passed without a copy
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return (rotated + _MASK_DELTA) & 0xFFFFFFFF


def records(file: File) -> Iterator[Record]:
    """Yield every record of a table in key order; values are views of the file.

    >>> [record.key for record in records(file)]  # doctest: +SKIP
    [b'', b'conv1/weights', b'logits/biases']

    Raises:
        CheckpointError: anything of the table cannot be what a writer wrote. Every block's checksum is compared
            before the block is used, and keys must rise, so no record and no byte is seen twice.
    """
    if not is_table(file):
        found = [f"its last 8 bytes are {bytes(file.data[-8:]).hex(' ')}, expected {MAGIC.hex(' ')}"]
        raise CheckpointError(
            f"`{file.name}` is no TensorFlow table, or is cut short", found=found, help="copy or download it again"
        )
    if len(file.data) < _FOOTER:
        raise file.damaged(f"it has {len(file.data)} bytes, and a table's footer alone takes {_FOOTER}")
    footer = file.data[len(file.data) - _FOOTER : -8]
    _, at = _handle(footer, 0, file, "footer")  # the metaindex: TensorFlow writes it empty
    index, _ = _handle(footer, at, file, "footer")
    floor = 0
    previous: bytes | None = None
    for entry in _entries(_block(index, file), file, f"index block at byte {index.offset}"):
        block, _ = _handle(entry.value, 0, file, entry.where)
        if block.offset < floor:  # else a small index could name one large block many times
            raise file.damaged(f"{entry.where}: block at byte {block.offset} begins before byte {floor}")
        contents = _block(block, file)
        floor = block.offset + block.size + _TRAILER
        for record in _entries(contents, file, f"block at byte {block.offset}"):
            if previous is not None and record.key <= previous:
                raise file.damaged(
                    f"{record.where}: keys do not rise", f"{record.key[:60]!r} follows {previous[:60]!r}"
                )
            previous = record.key
            yield record


def _handle(data: memoryview, at: int, file: File, where: str) -> tuple[_Handle, int]:
    offset, at = varint(data, at, file, where)
    size, at = varint(data, at, file, where)
    room = len(file.data) - _FOOTER - _TRAILER
    if offset + size > room:
        raise file.damaged(
            f"{where}: a block of {size} bytes at byte {offset} does not fit", f"blocks end by byte {room}"
        )
    return _Handle(offset, size), at


def _block(handle: _Handle, file: File) -> memoryview:
    """Return the contents of a block whose checksum holds."""
    where = f"block at byte {handle.offset}"
    end = handle.offset + handle.size
    stored = int.from_bytes(file.data[end + 1 : end + _TRAILER], "little")
    computed = masked_crc32c(file.data[handle.offset : end + 1])
    if stored != computed:
        raise file.damaged(
            f"{where} fails its checksum",
            f"{handle.size} bytes have masked crc32c {computed:#010x}, the file says {stored:#010x}",
        )
    contents = file.data[handle.offset : end]
    compression = file.data[end]
    if compression == _SNAPPY:
        return snappy.unpack(contents, file, where)
    if compression != _NO_COMPRESSION:
        raise file.damaged(f"{where} has compression {compression}", "0 (none) and 1 (Snappy) are known")
    return contents


def _entries(block: memoryview, file: File, where: str) -> Iterator[Record]:
    """Undo the prefix compression of one block."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise file.damaged(f"{where}: {restarts} restarts do not fit in its {len(block)} bytes")
    offsets = np.frombuffer(block[end:], "<u4")[:-1]
    if restarts and (offsets[0] != 0 or offsets[-1] > end or (offsets[1:] <= offsets[:-1]).any()):
        raise file.damaged(f"{where}: its restart offsets do not rise from 0 to at most {end}")
    data = block[:end]
    at = 0
    key = b""
    while at < end:
        here = f"{where}, entry at byte {at}"
        file.budget.take_steps(1, f"`{file.name}`")
        shared, at = varint(data, at, file, here)
        unshared, at = varint(data, at, file, here)
        size, at = varint(data, at, file, here)
        if shared > len(key):
            raise file.damaged(f"{here}: it shares {shared} bytes of a key of {len(key)}")
        if unshared + size > end - at:
            raise file.damaged(f"{here}: it claims {unshared} + {size} bytes, {end - at} are left")
        file.budget.take_bytes(shared + unshared, f"`{file.name}`: {here}")
        key = key[:shared] + bytes(data[at : at + unshared])
        at += unshared
        yield Record(key, data[at : at + size], here)
        at += size
