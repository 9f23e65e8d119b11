"""Tar archives: members that are no files, names that lead elsewhere, sizes that lie, streams that grow."""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import tf_writer as w

from hostile.rows import Hostile, one

_V1 = w.v1({"w": np.ones(3, np.float32)})


def _tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            body = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def _special(kind: bytes, target: str = "", name: str = "m.ckpt") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return _tar(info)


def _sized(size: bytes) -> bytes:
    body = bytearray(_tar(("m.ckpt", _V1)))
    body[124:136] = size
    body[148:156] = b" " * 8
    body[148:156] = b"%06o\0 " % sum(body[:512])
    return bytes(body)


def _long_name() -> bytes:
    return _tar(("x" * (1 << 17), _V1))


TAR: dict[str, Hostile] = {
    "tar: symbolic link out": one("is a symbolic link", _special(tarfile.SYMTYPE, "../outside/secret")),
    "tar: symbolic link to an absolute path": one("is a symbolic link", _special(tarfile.SYMTYPE, "/etc/passwd")),
    "tar: hard link": one("is a hard link", _special(tarfile.LNKTYPE, "../outside/secret")),
    "tar: device": one("is a device", _special(tarfile.CHRTYPE)),
    "tar: block device": one("is a device", _special(tarfile.BLKTYPE)),
    "tar: pipe": one("is a pipe", _special(tarfile.FIFOTYPE)),
    "tar: sparse file": one("is a sparse file", _special(tarfile.GNUTYPE_SPARSE)),
    **{
        f"tar: member {name}": one("leads out of the archive", _tar((name, _V1)))
        for name in ("../outside/m.ckpt", "a/../../m.ckpt", "/tmp/m.ckpt", "..\\m.ckpt", "C:\\m.ckpt")
    },
    "tar: member there twice": one("is there twice", _tar(("m.ckpt", _V1), ("./m.ckpt", _V1))),
    "tar: member of -1 bytes": one("claims -1 bytes", _sized(b"\xff" * 12)),
    "tar: member of 2^87 bytes": one("claims 309485009821345068724781055 bytes", _sized(b"\x80" + b"\xff" * 11)),
    "tar: member of 8 GB": one("claims 8589934591 bytes", _sized(b"77777777777\0")),
    "tar: name of 128 kB": one("a member's name takes 131073 bytes", _long_name),
    "tar: archive in an archive": one("no checkpoint in", _tar(("m.tar", _tar(("m.ckpt", _V1))))),
    "tar: state file that names a path out": one(
        "names a file outside its folder",
        _tar(("run/m.ckpt", _V1), ("run/checkpoint", b'model_checkpoint_path: "../../outside/secret"\n')),
    ),
    "tar: 300 MB of zeros, packed": one("unpacks to too much", lambda: gzip.compress(bytes(300 << 20), 1)),
    "tar: 300 MB of zeros, packed, said to be 1000 bytes": one(
        "1000 bytes are announced", lambda: gzip.compress(bytes(300 << 20), 1)[:-4] + (1000).to_bytes(4, "little")
    ),
}
