"""Keras 3's `.keras` files: a zip of config.json, metadata.json and model.weights.h5, never unpacked to the disk.

The weights are an ordinary `.weights.h5` (see keras_h5); config.json says which layer is behind each of its paths, in
which order, and which batch norms lack gamma or beta. Keras numbers the layers of one class in the order of the
configuration (keras-team/keras: src/saving/saving_lib.py), so the names are right for weights without names, too.
Keras stores members without compression: the weights then are views of the mapped file.

The zip is read by its central directory (PKWARE: APPNOTE.TXT 4.3), and each member's own header must agree with it.
Only config.json and model.weights.h5 are looked at. Class names in the former are compared with a table: nothing in it
is imported or run.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from resforward.checkpoints import keras_h5
from resforward.checkpoints.arrays import Contents
from resforward.checkpoints.files import File, Folder, leads_out
from resforward.checkpoints.keras_h5 import Layer, variables_of
from resforward.errors import CheckpointError

NAME = "Keras zip"
_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_MEMBERS = (_WEIGHTS, _CONFIG, "metadata.json")
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_HEAD, _TAIL = 512, 1 << 16
_STORED, _DEFLATED = 0, 8
_MAX_MEMBERS = 1024
_MAX_CONFIG = 16 << 20  # ResNet152's takes 0.4 MB
_MAX_DEPTH = 16
_MAX_PIECES = 400_000
_CHUNK = 1 << 20


class _Member(NamedTuple):
    name: str
    method: int
    checksum: int
    packed: int
    size: int
    header: int


def recognises(file: File) -> bool:
    """Tell whether a file is a zip with the members of a Keras file."""
    return begins(bytes(file.data[:_HEAD]))


def begins(head: bytes) -> bool:
    """Tell whether the first bytes of a file are those of a zip whose first member is one of a Keras file.

    >>> begins(b"PK\\3\\4" + bytes(22) + b"\\x0b\\0\\0\\0" + b"config.json" + b"{}")
    True
    """
    return (
        head.startswith(_LOCAL) and head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("latin-1") in _MEMBERS
    )


def read(folder: Folder, name: str) -> Contents:
    """Read the weights of a `.keras` file.

    >>> read(DiskFolder(Path("models")), "resnet50.keras").tensors["conv1_bn/gamma"].shape  # doctest: +SKIP
    (64,)

    Raises:
        CheckpointError: the zip, its configuration or its weights are damaged, or unpack to more than the budget.
    """
    file = folder.open(name)
    members = _members(file)
    missing = [f"`{each}`" for each in (_CONFIG, _WEIGHTS) if each not in members]
    if missing:
        raise CheckpointError(
            f"`{file.name}` is a Keras zip without {' and '.join(missing)}",
            found=[f"it holds {', '.join(f'`{each[:40]}`' for each in list(members)[:8])}"],
            help="save it with `model.save` of Keras 3, in one piece",
        )
    layers = _layers(_config(file, members[_CONFIG]), file)
    weights = _unpack(file, members[_WEIGHTS])
    return keras_h5.read_file(File(f"{file.name}: {_WEIGHTS}", weights, file.budget), layers)


# --- the zip ---


def _members(file: File) -> dict[str, _Member]:
    """Read the central directory; members must be unique, apart from each other, and plain."""
    data = file.data
    at = bytes(data[-_TAIL:]).rfind(_END)
    end = max(0, len(data) - _TAIL) + at
    if at < 0 or len(data) - end < 22:
        raise file.damaged("it is a zip that is cut short: the directory at its end is missing")
    _, disk, first, here, count, size, start, comment = struct.unpack_from("<4s4H2IH", data, end)
    if disk or first or here != count or start + size != end or end + 22 + comment != len(data):
        raise file.damaged("the directory at its end cannot be", "one volume without zip64 is read, nothing before it")
    if count > _MAX_MEMBERS:
        raise file.damaged(f"it has {count} members", f"at most {_MAX_MEMBERS} are read")
    found: dict[str, _Member] = {}
    at = start
    for _ in range(count):
        if end - at < 46 or bytes(data[at : at + 4]) != _CENTRAL:
            raise file.damaged(f"its directory has no entry at byte {at}")
        flags, method, checksum, packed, whole, name_size, extra, note, header = struct.unpack_from(
            "<8xHH4x3I3H8xI", data, at
        )
        name = bytes(data[at + 46 : at + 46 + name_size]).decode("utf-8", "backslashreplace")
        at += 46 + name_size + extra + note
        if flags & 1:
            raise file.damaged(f"member `{name[:80]}` is encrypted")
        if name in found:
            raise file.damaged(f"member `{name[:80]}` is there twice")
        if leads_out(name):
            raise CheckpointError(f"refused `{file.name}`: member `{name[:80]}` leads out of the archive")
        found[name] = _Member(name, method, checksum, packed, whole, header)
    if at != end:
        raise file.damaged(f"its directory ends at byte {at}, expected {end}")
    floor = 0
    for member in sorted(found.values(), key=lambda each: each.header):
        first, last = _place(file, member)
        if member.header < floor or last > start:
            raise file.damaged(f"member `{member.name[:80]}` overlaps another, or the directory")
        floor = last
    return found


def _place(file: File, member: _Member) -> tuple[int, int]:
    """Return where a member's bytes begin and end, once its own header names it as the directory does."""
    head = file.data[member.header : member.header + 30]
    if len(head) < 30 or bytes(head[:4]) != _LOCAL:
        raise file.damaged(f"member `{member.name[:80]}` has no header at byte {member.header}")
    method, name_size, extra = struct.unpack_from("<8xH16xHH", head)
    start = member.header + 30 + name_size + extra
    name = bytes(file.data[member.header + 30 : member.header + 30 + name_size]).decode("utf-8", "backslashreplace")
    if name != member.name or method != member.method:
        raise file.damaged(f"member `{member.name[:80]}` is `{name[:80]}` in its own header")
    return start, start + member.packed


def _unpack(file: File, member: _Member) -> memoryview:
    """Return a member's bytes, compared with its checksum: a view where they are stored as they are."""
    where = f"member `{member.name}`"
    start, end = _place(file, member)
    raw = file.data[start:end]
    if member.method == _STORED:
        if member.packed != member.size:
            raise file.damaged(f"{where} has {member.packed} bytes, and claims {member.size}")
        whole = raw
    elif member.method == _DEFLATED:
        whole = _inflate(file, raw, member.size, where)
    else:
        raise file.damaged(f"{where} has compression {member.method}", "0 (none) and 8 (deflate) are known")
    checksum = 0
    for at in range(0, len(whole), _CHUNK):
        checksum = zlib.crc32(whole[at : at + _CHUNK], checksum)
    if checksum != member.checksum:
        raise file.damaged(f"{where} fails its checksum", f"it is {checksum:#010x}, expected {member.checksum:#010x}")
    return whole


def _inflate(file: File, raw: memoryview, size: int, where: str) -> memoryview:
    """Unpack into exactly the memory that the directory announces, and not a byte more."""
    file.budget.take_bytes(size, f"`{file.name}`: {where}")
    out = np.empty(size, np.uint8)
    stream = zlib.decompressobj(wbits=-15)  # no header: a zip's own is enough
    done = 0
    waiting: memoryview | bytes = raw
    while not stream.eof:
        try:
            piece = stream.decompress(waiting, _CHUNK)
        except zlib.error as error:
            raise file.damaged(f"{where} cannot be unpacked", f"{error}") from error
        waiting = stream.unconsumed_tail
        if len(piece) > size - done:
            raise file.damaged(f"{where} unpacks to more than the {size} bytes that the directory says")
        if not piece and not stream.eof and not waiting:
            raise file.damaged(f"{where} breaks off after {done} of {size} bytes")
        out[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    if done != size:
        raise file.damaged(f"{where} unpacks to {done} bytes", f"the directory says {size}")
    return out.data.toreadonly()


# --- the configuration ---


def _config(file: File, member: _Member) -> dict[str, Any]:
    """Parse config.json within limits."""
    if member.size > _MAX_CONFIG:
        found = [f"at most {_MAX_CONFIG} are read"]
        raise CheckpointError(f"refused `{file.name}`: its config.json has {member.size} bytes", found=found)
    raw = bytes(_unpack(file, member))
    if raw.count(b"{") + raw.count(b"[") + raw.count(b",") > _MAX_PIECES:
        raise file.damaged("its config.json is in too many pieces", f"at most {_MAX_PIECES} are read")
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        found = [f"{error}"[:200]]
        raise file.damaged("its config.json cannot be read", *found) from error
    if not isinstance(config, dict):
        raise file.damaged("its config.json is not an object")
    return config


def _layers(model: dict[str, Any], file: File, prefix: str = "", depth: int = 0) -> dict[str, Layer]:
    """List the layers of a configuration by the paths of their variables, in the model's order."""
    if depth == _MAX_DEPTH:
        raise file.damaged(f"its config.json has models more than {_MAX_DEPTH} deep")
    found: dict[str, Layer] = {}
    numbers: Counter[str] = Counter()
    for entry in _entries(model, file):
        kind, settings = snake_case(entry["class_name"]), entry["config"]
        number, numbers[kind] = numbers[kind], numbers[kind] + 1
        path = f"{prefix}layers/{kind}_{number}" if number else f"{prefix}layers/{kind}"
        absent = {flag for flag in ("scale", "center") if settings.get(flag) is False}
        names = variables_of(kind, scale="scale" not in absent, center="center" not in absent)
        found[path] = Layer(str(settings.get("name", "")), names)
        if "layers" in settings:
            found |= _layers(entry, file, f"{path}/", depth + 1)
    return found


def _entries(model: dict[str, Any], file: File) -> Iterator[dict[str, Any]]:
    """Yield the layers of one model's configuration; its operations are numbered apart from them."""
    settings = model.get("config")
    layers = settings.get("layers", []) if isinstance(settings, dict) else None
    if not isinstance(layers, list):
        raise file.damaged("its config.json has a model without a list of layers")
    for entry in layers:
        plain = isinstance(entry, dict) and isinstance(entry.get("class_name"), str)
        if not plain or not isinstance(entry.get("config"), dict):
            raise file.damaged("its config.json has a layer without a class or a configuration")
        if not str(entry.get("module")).startswith("keras.src.ops"):
            yield entry


def snake_case(name: str) -> str:
    """Write a class's name as Keras does in paths (src/utils/naming.py).

    >>> snake_case("Conv2DTranspose"), snake_case("BatchNormalization"), snake_case("ReLU")
    ('conv2d_transpose', 'batch_normalization', 're_lu')
    """
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", re.sub(r"\W+", "", name)).lower()
