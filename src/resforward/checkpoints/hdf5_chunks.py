"""Datasets that HDF5 cuts into chunks, each through filters of its own, found by a B-tree [III.A.1, IV.A.2.i and l].

Every chunk must be there, once, and unpack to exactly its size: a shape alone is worth no memory.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np

from resforward.checkpoints.arrays import Array, byte_size, frozen, view
from resforward.checkpoints.hdf5_blocks import UNDEFINED, Blocks, Cursor

_GZIP, _SHUFFLE, _FLETCHER32 = 1, 2, 3


def read_chunks(
    layout: Cursor, shape: tuple[int, ...], dtype: np.dtype[Any], filters: memoryview | None, blocks: Blocks, where: str
) -> Array:
    """Put the chunks of a dataset together.

    Args:
        layout: what follows version and class in a layout message.
        filters: the filter message, if there is one.

    Raises:
        CheckpointError: a chunk is missing, damaged, or in a filter that is not read.
    """
    file = blocks.file
    rank, address = layout.unpack("<BQ")
    *chunk, itemsize = layout.unpack(f"<{rank}I") if rank else (0, 0)
    if len(chunk) != len(shape) or not shape or itemsize != dtype.itemsize or not all(chunk):
        raise file.damaged(f"{where} has chunks of {(*chunk, itemsize)}", f"its shape is {shape} of {dtype}")
    pipeline = _pipeline(filters, itemsize, blocks, where)
    chunk_bytes = byte_size(tuple(chunk), dtype, file, where)
    size = byte_size(shape, dtype, file, where)
    expected = math.prod(-(-length // step) for length, step in zip(shape, chunk, strict=True))
    if not expected:
        return frozen(np.empty(shape, dtype))
    if address == UNDEFINED:
        raise never_written(blocks, where)
    file.budget.take_steps(expected, f"`{file.name}`: {where}")
    file.budget.take_bytes(size, f"`{file.name}`: {where}")
    file.budget.take_bytes(2 * chunk_bytes, f"`{file.name}`: a chunk of {where}")
    whole = np.empty(shape, dtype)
    seen: set[tuple[int, ...]] = set()
    for key, child in blocks.btree(address, 1, 8 + 8 * rank, where):
        stored, mask, *place = struct.unpack(f"<II{rank}Q", key)
        starts = tuple(place[:-1])
        outside = any(at % step or at >= length for at, step, length in zip(starts, chunk, shape, strict=True))
        if outside or place[-1] or starts in seen:
            raise file.damaged(f"{where} has a chunk at {starts} that cannot be, or the same one twice")
        seen.add(starts)
        raw = blocks.take(child, stored, f"a chunk of {where}")
        values = view(
            _unfilter(raw, pipeline, mask, chunk_bytes, itemsize, blocks, where), tuple(chunk), dtype, file, where
        )
        lengths = [min(step, length - at) for at, step, length in zip(starts, chunk, shape, strict=True)]
        target = tuple(slice(at, at + n) for at, n in zip(starts, lengths, strict=True))
        whole[target] = values[tuple(slice(n) for n in lengths)]  # a chunk may stick out at the end
    if len(seen) != expected:
        raise blocks.refused(f"{where} has {len(seen)} of its {expected} chunks", "the others were never written")
    return frozen(whole)


def never_written(blocks: Blocks, where: str) -> Exception:
    """Return the error for a dataset that is a shape alone."""
    return blocks.refused(f"{where} was never written", "it has a shape, and no values behind it")


def _pipeline(body: memoryview | None, itemsize: int, blocks: Blocks, where: str) -> list[int]:
    """Read a filter message: the filters' numbers in the order they were applied."""
    if body is None:
        return []
    cursor = blocks.cursor(body, f"the filters of {where}")
    version, count = cursor.unpack("<BB")
    if version not in (1, 2):
        raise blocks.file.damaged(f"the filters of {where} have version {version}")
    cursor.take(6 if version == 1 else 0)
    pipeline: list[int] = []
    for _ in range(count):
        (number,) = cursor.unpack("<H")
        (name_size,) = cursor.unpack("<H") if version == 1 or number >= 256 else (0,)
        _, count_of_values = cursor.unpack("<HH")
        name = bytes(cursor.take(name_size, 8 if version == 1 else 1)).rstrip(b"\0")
        values = cursor.unpack(f"<{count_of_values}I")
        cursor.take(4 * (count_of_values % 2) if version == 1 else 0)
        if number not in (_GZIP, _SHUFFLE, _FLETCHER32) or number in pipeline:
            known = "gzip, shuffle and fletcher32 are read, each once"
            raise blocks.refused(f"{where} uses filter {number} {name[:40]!r}", known)
        if number == _SHUFFLE and values != (itemsize,):
            raise blocks.file.damaged(f"{where} shuffles values of {values} bytes, and they have {itemsize}")
        pipeline.append(number)
    return pipeline


def _unfilter(
    raw: memoryview, pipeline: list[int], mask: int, size: int, itemsize: int, blocks: Blocks, where: str
) -> memoryview:
    """Undo a chunk's filters, the last first, into exactly `size` bytes."""
    file = blocks.file
    if mask >> len(pipeline):
        raise file.damaged(f"a chunk of {where} leaves out filters that it does not have")
    for place, number in reversed(list(enumerate(pipeline))):
        if mask >> place & 1:  # an optional filter that did not pay
            continue
        if number == _FLETCHER32:
            raw, stored = raw[:-4], int.from_bytes(raw[-4:], "little")
            if fletcher32(raw) != stored:
                raise file.damaged(f"a chunk of {where} fails its checksum")
        elif number == _GZIP:
            limit = size + 4 * (_FLETCHER32 in pipeline[:place])  # a checksum may have been added before
            stream = zlib.decompressobj()
            try:
                unpacked = stream.decompress(raw, limit + 1)
            except zlib.error as error:
                raise file.damaged(f"a chunk of {where} cannot be unpacked", f"{error}") from error
            if len(unpacked) > limit:
                raise file.damaged(f"a chunk of {where} unpacks to more than its {limit} bytes")
            if not stream.eof:
                raise file.damaged(f"a chunk of {where} breaks off after {len(unpacked)} of {limit} bytes")
            raw = memoryview(unpacked)
        else:
            whole = len(raw) - len(raw) % itemsize
            planes = np.frombuffer(raw[:whole], np.uint8).reshape(itemsize, -1)
            raw = memoryview(planes.T.tobytes() + bytes(raw[whole:]))
    if len(raw) != size:
        raise file.damaged(f"a chunk of {where} has {len(raw)} bytes, expected {size}")
    return raw


def fletcher32(data: memoryview) -> int:
    """Return the checksum of filter 3: sums of big-endian words, and of the sums on the way, modulo 65535.

    >>> hex(fletcher32(memoryview(b"abcdef")))
    '0x50562a2d'

    Sums are folded, not divided, so that only nothing but zeros has 0 (HDFGroup/hdf5: src/H5checksum.c).
    """
    words = np.frombuffer(bytes(data) + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    places = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    return _fold(int((words * places).sum())) << 16 | _fold(int(words.sum()))


def _fold(total: int) -> int:
    return total % 65535 or (65535 if total else 0)
