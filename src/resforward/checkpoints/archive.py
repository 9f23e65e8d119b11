"""Archives as models are published in: tar, plain or gzipped, unpacked into memory and never onto the disk.

A plain tar is not even unpacked: its members are slices of the mapping. Only regular files are taken; names are keys
of a table and never paths, so there is nothing to traverse; one that would lead out is refused all the same.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import PurePosixPath

from resforward.checkpoints.files import File, MemoryFolder, leads_out
from resforward.checkpoints.inflate import GZIP, inflate
from resforward.errors import CheckpointError

NAME = "tar archive"
_GZIP = b"\x1f\x8b"
_BLOCK = 512
_MAX_LONG_NAME = 1 << 16
_UNPACK = "if you trust it, unpack it yourself with `tar xf` and pass the folder"
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_LINKS_AND_DEVICES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def recognises(file: File) -> bool:
    """Tell whether a file is gzipped or begins with a tar header."""
    return bytes(file.data[:2]) == _GZIP or _header(file.data[:_BLOCK]) is not None


def unpack(file: File) -> MemoryFolder:
    """List the files of an archive, unpacked in memory.

    >>> unpack(DiskFolder(Path("models")).open("resnet_v1_50_2016_08_28.tar.gz")).names()  # doctest: +SKIP
    ['resnet_v1_50.ckpt']

    Raises:
        CheckpointError: the archive is damaged, holds links, devices or names that lead out of it, or unpacks to more
            memory than the budget.
    """
    data = _gunzip(file) if bytes(file.data[:2]) == _GZIP else file.data
    members: dict[str, memoryview] = {}
    at, long_name = 0, ""
    while at + _BLOCK <= len(data):
        file.budget.take_steps(1, f"`{file.name}`")
        block = data[at : at + _BLOCK]
        if not any(block):  # two blocks of zeros end an archive; one will do
            break
        info = _header(block)
        if info is None:
            raise file.damaged(f"no tar header at byte {at} of its {len(data)}")
        start = at + _BLOCK
        if not 0 <= info.size <= len(data) - start:
            raise file.damaged(f"member `{info.name[:80]}` claims {info.size} bytes", f"{len(data) - start} are left")
        body = data[start : start + info.size]
        at = start + -(-info.size // _BLOCK) * _BLOCK
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            if info.size > _MAX_LONG_NAME:
                raise file.damaged(f"a member's name takes {info.size} bytes", f"at most {_MAX_LONG_NAME} are read")
            long_name = _long_name(info.type, bytes(body)) or long_name
            continue
        if info.type in _LINKS_AND_DEVICES:
            found = [f"`{long_name or info.name}` is {_LINKS_AND_DEVICES[info.type]}"]
            raise CheckpointError(f"refused `{file.name}`: it holds more than files", found=found, help=_UNPACK)
        if leads_out(long_name or info.name):
            found = [f"`{(long_name or info.name)[:80]}` leads out of the archive"]
            raise CheckpointError(f"refused `{file.name}`: it holds a path, not a name", found=found, help=_UNPACK)
        if info.type in _FILES:
            name = str(PurePosixPath(long_name or info.name))
            if name in members:
                raise file.damaged(f"member `{name}` is there twice")
            members[name] = body
        long_name = ""
    return MemoryFolder(file.name, members, file.budget)


def _header(block: memoryview) -> tarfile.TarInfo | None:
    """Read one tar header, or None; the standard library knows its dialects and its checksum."""
    try:
        return tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None


def _long_name(kind: bytes, body: bytes) -> str:
    """Read a name too long for its header: GNU's record is the name, pax's holds lines `length path=name`."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return body.rstrip(b"\0").decode("utf-8", "surrogateescape")
    found = re.search(rb"(?:\A|\n)\d{1,6} path=([^\n]*)\n", body)
    return found[1].decode("utf-8", "surrogateescape") if found else ""


def _gunzip(file: File) -> memoryview:
    """Unpack one gzip stream; its last four bytes announce the size."""
    if len(file.data) < 18:
        raise file.damaged("it is too short for a gzip stream")
    size = int.from_bytes(file.data[-4:], "little")
    return inflate(file.data, size, GZIP, file, "its gzip stream", _UNPACK)
