"""A bounded walker of protocol buffer messages: one level at a time, no recursion, no copies.

Wire format: protobuf.dev/programming-guides/encoding. Callers know their schema and descend by walking a field's
bytes again, so depth is the caller's code, never the file's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resforward.checkpoints.files import File

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIRE_NAMES = {VARINT: "a varint", FIXED64: "8 bytes", BYTES: "a length-delimited field", FIXED32: "4 bytes"}
_CHUNK = 1 << 18  # varints are decoded 256 kB at a time, so that temporaries stay small

Field = tuple[int, int, int, memoryview]  # number, wire type, value if a varint, bytes if anything else
_NOTHING = memoryview(b"")


def varint(data: memoryview, at: int, file: File, where: str) -> tuple[int, int]:
    """Read one unsigned varint; return it and the position after it.

    >>> from resforward.checkpoints.files import Budget
    >>> data = memoryview(bytes([0xAC, 0x02]))
    >>> varint(data, 0, File("x.ckpt", data, Budget()), "here")
    (300, 2)

    Raises:
        CheckpointError: the varint leaves `data`, or is longer than the ten bytes of 64 bits.
    """
    value = shift = 0
    end = len(data)
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise file.damaged(f"{where}: a varint ending at byte {at} does not fit in 64 bits")
            return value, at
        shift += 7
        if shift == 70:
            raise file.damaged(f"{where}: a varint ending at byte {at} is longer than ten bytes")
    raise file.damaged(f"{where}: a varint is cut off at byte {at}")


def fields(message: memoryview, file: File, where: str) -> Iterator[Field]:
    """Yield (number, wire type, varint, bytes) for every field of one message, in the order of the file.

    >>> from resforward.checkpoints.files import Budget
    >>> message = memoryview(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69]))
    >>> file = File("x.ckpt", message, Budget())
    >>> [(number, value, bytes(data)) for number, _, value, data in fields(message, file, "here")]
    [(1, 150, b''), (2, 0, b'hi')]

    Raises:
        CheckpointError: a tag, varint or length is impossible, or the file holds more fields than its budget.
    """
    at, end = 0, len(message)
    while at < end:
        file.budget.take_steps(1, f"`{file.name}`")
        tag, at = varint(message, at, file, where)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise file.damaged(f"{where}: field number {number} at byte {at} is impossible")
        if wire == VARINT:
            value, at = varint(message, at, file, where)
            yield number, wire, value, _NOTHING
            continue
        if wire == BYTES:
            length, at = varint(message, at, file, where)
        elif wire == FIXED32:
            length = 4
        elif wire == FIXED64:
            length = 8
        else:
            raise file.damaged(f"{where}: field {number} at byte {at} has wire type {wire}, which no checkpoint uses")
        if length > end - at:
            raise file.damaged(f"{where}: field {number} claims {length} bytes at byte {at}, {end - at} are left")
        yield number, wire, 0, message[at : at + length]
        at += length


def expect(wire: int, wanted: int, number: int, file: File, where: str) -> None:
    """Raise CheckpointError unless a field has the wire type that its schema says."""
    if wire != wanted:
        found = _WIRE_NAMES.get(wire, f"wire type {wire}")
        raise file.damaged(f"{where}: field {number} is {found}, expected {_WIRE_NAMES[wanted]}")


def signed(value: int) -> int:
    """Read a varint as int64: two's complement.

    >>> signed(2**64 - 1)
    -1
    """
    return value - (1 << 64) if value >> 63 else value


def text(data: memoryview, file: File, where: str) -> str:
    """Decode a string field; raise CheckpointError unless it is UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise file.damaged(f"{where}: a name is not UTF-8", f"found {bytes(data[:40])!r}") from error


def packed_varints(data: memoryview, file: File, where: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Decode a packed run of varints as int64.

    >>> from resforward.checkpoints.files import Budget
    >>> data = memoryview(bytes([1, 0xAC, 0x02]))
    >>> packed_varints(data, File("x.ckpt", data, Budget()), "here").tolist()
    [1, 300]

    Raises:
        CheckpointError: a varint is cut off or too long, or the values would take more memory than the budget.
    """
    encoded = np.frombuffer(data, np.uint8)
    if not encoded.size:
        return np.empty(0, np.int64)
    if encoded[-1] >= 0x80:
        raise file.damaged(f"{where}: the last of its packed integers is cut off")
    last = encoded < 0x80
    count = int(np.count_nonzero(last))
    file.budget.take_bytes(8 * count + encoded.size, f"`{file.name}`: {where}")
    values = np.empty(count, np.int64)
    done = start = 0
    while start < encoded.size:
        ends = start + np.flatnonzero(last[start : start + _CHUNK])
        if not ends.size:
            raise file.damaged(f"{where}: a packed integer is longer than ten bytes")
        starts = np.concatenate(([start], ends[:-1] + 1))
        lengths = ends - starts + 1
        if lengths.max() > 10:
            raise file.damaged(f"{where}: a packed integer is longer than ten bytes")
        total = np.zeros(ends.size, np.uint64)
        for place in range(int(lengths.max())):  # value = sum over bytes of (byte & 127) * 128**place
            long = lengths > place
            digit = (encoded[starts[long] + place] & 0x7F).astype(np.uint64)
            total[long] |= digit << np.uint64(7 * place)
        values[done : done + ends.size] = total.view(np.int64)
        done += ends.size
        start = int(ends[-1]) + 1
    return values
