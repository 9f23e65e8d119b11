"""Zip archives, listed and checked before anything is taken out; entries that are stored as they are, are views.

    for each entry: local header | name | extra | bytes | (sizes again)
    central directory: for each entry: header | name | extra | comment
    (zip64 end record | its locator) | end record

(PKWARE: APPNOTE.TXT, 4.3.) Not the standard library's `zipfile`: that builds the whole directory before its length can
be looked at, copies every entry, and lets bytes lie before, between and across entries. Names are keys of a table and
never paths, so there is nothing to traverse.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import Any, NamedTuple

from resforward.checkpoints.files import File, leads_out
from resforward.checkpoints.inflate import RAW, inflate
from resforward.errors import CheckpointError

MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3I2H")  # magic, version, flags, method, time, date, crc, packed, size, name, extra
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # the same behind another version, and comment, disk, attributes, offset
_END = struct.Struct("<4s4H2IH")  # magic, disk, its first, entries here, entries, size, offset, comment
_LOCATOR = struct.Struct("<4sIQI")  # magic, disk, offset of the zip64 end record, disks
_END_64 = struct.Struct("<4sQ2H2I4Q")  # magic, size, versions, disks, entries here, entries, size, offset
_LONGEST_COMMENT = 0xFFFF
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 << 0
_IN_ZIP64 = 0xFFFFFFFF
_MAX_NAME = 1024
_ZIP64_EXTRA = 1
_STEPS_AN_ENTRY = 8  # what listing one costs, compared with a record or an opcode
_UNPACK = "if you trust it, unpack it yourself with `unzip` and pack it again with `zip -0`"


class Entry(NamedTuple):
    """One file of an archive; `checked` is false where the writer left every checksum out."""

    name: str
    data: memoryview
    deflated: bool
    size: int
    crc: int
    checked: bool


class _Listed(NamedTuple):
    """An entry as the central directory has it."""

    name: bytes
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def entries(file: File) -> dict[str, Entry]:
    """List an archive without unpacking anything.

    >>> sorted(entries(DiskFolder(Path("models")).open("resnet18.pth")))[:2]  # doctest: +SKIP
    ['resnet18/byteorder', 'resnet18/data.pkl']

    Raises:
        CheckpointError: the archive is damaged, two entries share a name or bytes, or one is encrypted, compressed
            by anything but DEFLATE, or named to lie outside.
    """
    listed, end = _directory(file)
    checked = any(each.crc for each in listed)  # torch.serialization.set_crc32_options(False) writes zeros
    found: dict[str, Entry] = {}
    places = []
    for each in listed:
        try:
            name = each.name.decode()
        except UnicodeDecodeError as error:
            raise file.damaged("the name of an entry is not UTF-8", f"{each.name[:80]!r}") from error
        where = f"entry `{name[:80]}`"
        if leads_out(name):
            raise CheckpointError(f"refused `{file.name}`: {where} leads out of the archive", help=_UNPACK)
        if name in found:
            raise file.damaged(f"{where} is there twice")
        start = _start(each, end, file, where)
        data = file.data[start : start + each.packed]
        found[name] = Entry(name, data, each.method == _DEFLATED, each.size, each.crc, checked)
        places.append((each.offset, start + each.packed, where))
    for (_, stop, one), (offset, _, other) in pairwise(sorted(places)):
        if offset < stop:
            raise file.damaged(f"{other} begins inside {one}", f"at byte {offset} of its {len(file.data)}")
    return found


def contents(entry: Entry, file: File) -> memoryview:
    """Return the bytes of an entry, compared with their checksum.

    Raises:
        CheckpointError: the bytes are damaged, or unpack to more memory than the budget.
    """
    where = f"entry `{entry.name[:80]}`"
    data = inflate(entry.data, entry.size, RAW, file, where, _UNPACK) if entry.deflated else entry.data
    if entry.checked and zlib.crc32(data) != entry.crc:
        raise file.damaged(f"{where} fails its checksum")
    return data


def _directory(file: File) -> tuple[list[_Listed], int]:
    """Read the central directory; return what it lists, and where it begins."""
    at, count, size, offset = _end(file)
    if offset + size != at:
        raise file.damaged(
            f"its directory of {size} bytes at byte {offset} does not fit", f"its end record is at byte {at}"
        )
    file.budget.take_steps(count * _STEPS_AN_ENTRY, f"`{file.name}`")
    directory = file.data[offset:at]
    listed, at = [], 0
    for _ in range(count):
        header = _fields(_CENTRAL, b"PK\x01\x02", directory, at, file, "its directory")
        flags, method, (crc, packed, full) = header[3], header[4], header[7:10]
        name_size, extra_size, comment_size, disk, place = *header[10:14], header[16]
        at += _CENTRAL.size
        name = bytes(directory[at : at + min(name_size, _MAX_NAME)])
        where = f"entry {name[:80]!r}"
        if name_size > _MAX_NAME or at + name_size + extra_size + comment_size > len(directory):
            raise file.damaged(f"{where} does not fit into its directory")
        extra = bytes(directory[at + name_size : at + name_size + extra_size])
        full, packed, place = _wide(extra, (full, packed, place), file, where)
        at += name_size + extra_size + comment_size
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            how = "is encrypted" if flags & _ENCRYPTED else f"has compression {method}"
            raise CheckpointError(f"refused `{file.name}`: {where} {how}", help=_UNPACK)
        if disk or (method == _STORED and packed != full):
            raise file.damaged(f"{where} claims {packed} bytes, stored, for {full} on disk {disk}")
        listed.append(_Listed(name, method, crc, packed, full, place))
    if at != len(directory):
        raise file.damaged(f"its directory has {len(directory)} bytes", f"its {count} entries take {at}")
    return listed, offset


def _end(file: File) -> tuple[int, int, int, int]:
    """Find the end record; return where the directory ends, its number of entries, its size and its offset."""
    tail_at = max(0, len(file.data) - _END.size - _LONGEST_COMMENT)
    tail = bytes(file.data[tail_at:])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise file.damaged("it is a zip archive without its end", f"{len(file.data)} bytes: it is cut short")
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(tail, found)
    at = tail_at + found
    if len(tail) - found - _END.size != comment or disk or first_disk or here != count:
        raise file.damaged("the end record of its zip archive does not fit it")
    locator_at = at - _LOCATOR.size
    if locator_at < 0 or bytes(file.data[locator_at : locator_at + 4]) != b"PK\x06\x07":
        return at, count, size, offset
    _, _, end_at, _ = _LOCATOR.unpack_from(file.data, locator_at)
    if end_at != locator_at - _END_64.size:
        raise file.damaged(f"its zip64 end record at byte {end_at} does not lie before its locator")
    wide = _fields(_END_64, b"PK\x06\x06", file.data, end_at, file, "its zip64 end record")
    here_64, count_64, size_64, offset_64 = wide[6:10]
    narrow = ((count, count_64, 0xFFFF), (size, size_64, _IN_ZIP64), (offset, offset_64, _IN_ZIP64))
    if here_64 != count_64 or any(one not in (other, absent) for one, other, absent in narrow):
        raise file.damaged("the two end records of its zip archive contradict each other")
    return end_at, count_64, size_64, offset_64


def _start(each: _Listed, end: int, file: File, where: str) -> int:
    """Return where the bytes of an entry begin: behind its local header, which must agree with the directory."""
    local = _fields(_LOCAL, MAGIC, file.data[:end], each.offset, file, where)
    name_at = each.offset + _LOCAL.size
    start: int = name_at + local[9] + local[10]
    if file.data[name_at : name_at + local[9]] != each.name or local[3] != each.method:
        raise file.damaged(f"{where} is something else at its place", f"byte {each.offset} of its {len(file.data)}")
    if start + each.packed > end:
        raise file.damaged(f"{where} claims {each.packed} bytes at byte {start}", f"the entries end at byte {end}")
    return start


def _wide(extra: bytes, values: tuple[int, ...], file: File, where: str) -> list[int]:
    """Replace the numbers that did not fit into 32 bits by those of the zip64 extra field."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64_EXTRA:
            wide = extra[at + 4 : at + 4 + size]
        at += 4 + size
    absent = [value == _IN_ZIP64 for value in values]
    if len(wide) < 8 * sum(absent):
        raise file.damaged(f"{where} lacks its 64-bit sizes")
    numbers = iter(struct.unpack_from(f"<{sum(absent)}Q", wide))
    return [next(numbers) if missing else value for value, missing in zip(values, absent, strict=True)]


def _fields(layout: struct.Struct, magic: bytes, data: memoryview, at: int, file: File, where: str) -> tuple[Any, ...]:
    """Read one record, or raise CheckpointError where it is not."""
    if not 0 <= at <= len(data) - layout.size or data[at : at + 4] != magic:
        raise file.damaged(f"{where} has no header {magic!r} at byte {at}")
    return layout.unpack_from(data, at)
