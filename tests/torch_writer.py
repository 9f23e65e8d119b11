"""A small writer of PyTorch's containers, so that tests can craft valid and hostile files.

Written from the same descriptions as the reader, but with none of its code. A pickle is put together from pieces: each
function below returns the bytes that push one value onto the stack.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

CLASSES = {"float64": "Double", "float32": "Float", "float16": "Half", "int64": "Long", "int32": "Int"}
CLASSES |= {"int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"}
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# --- values in a pickle ----------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def numbers(values: Iterable[int]) -> bytes:
    return tuple_of(*map(number, values))


def list_of(*values: bytes) -> bytes:
    return b"](" + b"".join(values) + b"e"


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


ORDERED_DICT = call(name("collections", "OrderedDict"))
FALSE, NONE = b"\x89", b"N"


def dict_of(items: Mapping[str, bytes] | Iterable[tuple[bytes, bytes]], empty: bytes = b"}") -> bytes:
    pairs = [(text(key), value) for key, value in items.items()] if isinstance(items, Mapping) else items
    return empty + b"(" + b"".join(key + value for key, value in pairs) + b"u"


def storage(key: str, kind: str, count: int, *view: bytes) -> bytes:
    kind_of = name("torch", f"{kind}Storage")
    return tuple_of(text("storage"), kind_of, text(key), text("cpu"), number(count), *view) + b"Q"


def tensor(storage: bytes, shape: Iterable[int], strides: Iterable[int], offset: int = 0) -> bytes:
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, storage, number(offset), numbers(shape), numbers(strides), FALSE, ORDERED_DICT)


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


# --- tensors ---------------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """Tensors as values in a pickle, and their storages: key, number of elements, bytes."""

    tensors: dict[str, bytes]
    storages: dict[str, tuple[int, bytes]]


def model(arrays: Mapping[str, np.ndarray], view: bytes = b"") -> Model:
    """Give every array a storage of its own."""
    made = Model({}, {})
    for i, (key, array) in enumerate(arrays.items()):
        strides = [step // array.itemsize for step in np.ascontiguousarray(array).reshape(array.shape).strides]
        place = storage(str(i), CLASSES[array.dtype.name], array.size, *([view] if view else []))
        made.tensors[key] = tensor(place, array.shape, strides)
        made.storages[str(i)] = (array.size, array.tobytes())
    return made


def state_dict(made: Model) -> bytes:
    """A state dict as `Module.state_dict` returns it: with an attribute beside its items."""
    metadata = dict_of({"_metadata": dict_of({"": dict_of({"version": number(1)})}, ORDERED_DICT)})
    return dict_of(made.tensors, ORDERED_DICT) + metadata + b"b"


# --- containers ------------------------------------------------------------------------------------------------------


def zipped(value: bytes, storages: Mapping[str, tuple[int, bytes]], **options) -> bytes:
    return archive(zip_members(pickled(value), storages), **options)


def zip_members(pickle: bytes, storages: Mapping[str, tuple[int, bytes]], order: bytes = b"little") -> dict[str, bytes]:
    members = {"m/data.pkl": pickle, "m/byteorder": order}
    return members | {f"m/data/{key}": data for key, (_, data) in storages.items()} | {"m/version": b"3\n"}


class Odd(NamedTuple):
    """An entry of a zip archive that is not as it should be: what is given replaces what is true."""

    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    at: int | None = None
    local_name: bytes | None = None
    wide: bool = False


def deflated(data: bytes, **odd) -> Odd:
    packer = zlib.compressobj(9, wbits=-15)
    return Odd(packer.compress(data) + packer.flush(), 8, crc=zlib.crc32(data), **{"size": len(data)} | odd)


def archive(members: Mapping[str, bytes | Odd] | Iterable[tuple[str, bytes | Odd]], *, wide: bool = True) -> bytes:
    """A zip archive; `wide` adds zip64's end records, as torch does."""
    out, directory, count = b"", b"", 0
    for key, given in members.items() if isinstance(members, Mapping) else members:
        entry = given if isinstance(given, Odd) else Odd(given)
        encoded = key.encode()
        at = len(out) if entry.at is None else entry.at
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        packed = len(entry.data) if entry.packed is None else entry.packed
        size = packed if entry.size is None else entry.size
        local = encoded if entry.local_name is None else entry.local_name
        padding = -(len(out) + 30 + len(local) + 4) % 64
        head = struct.pack("<5H3I", 0, entry.flags, entry.method, 0, 0, crc, packed & 0xFFFFFFFF, size & 0xFFFFFFFF)
        if entry.at is None:
            out += b"PK\3\4" + head + struct.pack("<2H", len(local), padding + 4) + local
            out += struct.pack("<2H", 0x4246, padding) + b"Z" * padding + entry.data
        extra = struct.pack("<2H3Q", 1, 24, size, packed, at) if entry.wide else b""
        if entry.wide:
            head = head[:-8] + b"\xff" * 8
        shown = b"\xff" * 4 if entry.wide else struct.pack("<I", at & 0xFFFFFFFF)
        directory += b"PK\1\2\0\0" + head + struct.pack("<5HI", len(encoded), len(extra), 0, 0, 0, 0) + shown
        directory += encoded + extra
        count += 1
    return out + directory + ends(count, len(directory), len(out), wide=wide)


def ends(count: int, size: int, offset: int, *, wide: bool = True, narrow: tuple[int, int, int] | None = None) -> bytes:
    """The end records of a zip archive."""
    out = b""
    if wide:
        out = b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 0, 45, 0, 0, count, count, size, offset)
        out += b"PK\6\7" + struct.pack("<IQI", 0, offset + size, 1)
    count, size, offset = narrow or (count, size, offset)
    return out + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, size & 0xFFFFFFFF, offset & 0xFFFFFFFF, 0)


def stream(
    value: bytes, storages: Mapping[str, tuple[int, bytes]], *, version: int = 1001, keys: bytes | None = None
) -> bytes:
    """The container of before 1.6."""
    facts = dict_of({"protocol_version": number(version), "little_endian": b"\x88"})
    listed = list_of(*map(text, storages)) if keys is None else keys
    out = MAGIC + b"".join(map(pickled, (number(version), facts, value, listed)))
    return out + b"".join(struct.pack("<q", count) + data for count, data in storages.values())


def tar_members(
    arrays: Mapping[str, np.ndarray], views: bytes = b"]", shape: tuple[int, ...] | None = None
) -> dict[str, bytes]:
    """The members of the container of 0.1."""
    storages = tensors = pickled(number(len(arrays)))
    for i, array in enumerate(arrays.values()):
        kind = CLASSES[array.dtype.name]
        storages += pickled(tuple_of(number(i), text("cpu"), name("torch", f"{kind}Storage")))
        storages += struct.pack("<q", array.size) + array.tobytes()
        tensors += pickled(tuple_of(number(100 + i), number(i), name("torch", f"{kind}Tensor")))
        strides = [step // array.itemsize for step in array.strides]
        tensors += struct.pack("<ii", array.ndim, 7)
        tensors += struct.pack(f"<{2 * array.ndim + 1}q", *(shape or array.shape), *strides, 0)
    items = {key: text(str(100 + i)) + b"Q" for i, key in enumerate(arrays)}
    body = pickled(dict_of(items, ORDERED_DICT))
    return {"sys_info": pickled(b"}"), "pickle": body, "tensors": tensors, "storages": storages + pickled(views)}


def tarred(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for key, body in members.items():
            info = tarfile.TarInfo(key)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()
