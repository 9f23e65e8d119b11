"""TensorFlow's second checkpoint format, the tensor bundle: `x.index` and `x.data-?????-of-?????`.

The index is a table; the data files hold the tensors' bytes, row-major, wherever the index says (tensorflow:
core/protobuf/tensor_bundle.proto, core/util/tensor_bundle/tensor_bundle.cc):

    ""                     BundleHeaderProto   num_shards = 1, endianness = 2, version = 3
    name                   BundleEntryProto    dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5,
                                               crc32c = 6 (masked, of the bytes in the file), slices = 7
    0x00, name and slice   BundleEntryProto    of one slice of a partitioned variable, whose own entry has `slices`

TF2's object checkpoints are the same files with longer names and one string tensor, `_CHECKPOINTABLE_OBJECT_GRAPH`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from resforward.checkpoints import protobuf, tf_table
from resforward.checkpoints.arrays import Array, Contents, byte_size, view
from resforward.checkpoints.files import File, Folder
from resforward.checkpoints.tf_tensor import (
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

NAME = "TensorFlow V2 bundle"
DATA_FILE = re.compile(r"(?P<prefix>.+)\.data-\d{5}-of-\d{5}", re.DOTALL)
_MAX_SHARDS = 1024
_LITTLE, _BIG = 0, 1
_Order = Literal["<", ">"]


def recognises(file: File) -> bool:
    """Tell whether a file is a table whose first record is a BundleHeaderProto."""
    first = next(tf_table.records(file), None) if tf_table.is_table(file) else None
    return first is not None and first.key == b"" and bytes(first.value[:1]) == b"\x08"


@dataclass
class _Entry:
    """A BundleEntryProto."""

    where: str
    kind: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = 0
    slices: list[Slice] = field(default_factory=list)


def read(folder: Folder, name: str) -> Contents:
    """Read a V2 checkpoint from its index file; its data files lie beside it.

    >>> sorted(read(DiskFolder(Path("models")), "model.ckpt.index").tensors)[0]  # doctest: +SKIP
    'resnet_v2_50/block1/unit_1/bottleneck_v2/conv1/BatchNorm/beta'

    Raises:
        CheckpointError: a data file is missing, a tensor fails its checksum, or a file is damaged.
    """
    index = folder.open(name)
    entries: dict[bytes, _Entry] = {}
    shards = 0
    order: _Order = "<"
    for record in tf_table.records(index):
        if record.key == b"":
            shards, order = _header(record.value, index)
        else:
            tensor = str(record.key, "utf-8", "backslashreplace")
            entries[record.key] = _entry(record.value, index, f"tensor `{tensor}`")
    if not shards:
        raise index.damaged("it has no header record")
    bundle = _Bundle(folder, index, name.removesuffix(".index"), shards)
    contents = Contents({}, {})
    slice_keys = {key for key in entries if key.startswith(b"\0")}
    bundle.check([entry for key, entry in entries.items() if key in slice_keys or not entry.slices])
    for key, entry in entries.items():
        if key in slice_keys:
            continue
        tensor = protobuf.text(memoryview(key), index, entry.where)
        where = f"tensor `{tensor}`"
        dtype, kind = data_type(entry.kind, index, where)
        if dtype is None:
            contents.skipped[tensor] = kind
        elif entry.slices:
            dtype = dtype.newbyteorder(order)
            byte_size(entry.shape, dtype, index, where)
            places = [box(piece, entry.shape, index, where) for piece in entry.slices]
            check_cover(places, entry.shape, index, where)
            parts = []
            for piece, place in zip(entry.slices, places, strict=True):
                part = entries.get(slice_key(key, piece))
                if part is None:
                    raise index.damaged(f"{where} lists a slice that is not there", f"{place}")
                if part.kind != entry.kind or part.shape != place.lengths:
                    found = f"data type {part.kind} and shape {part.shape}, expected {entry.kind} and {place.lengths}"
                    raise index.damaged(f"{where}: a slice does not match its list", found)
                parts.append((place, bundle.tensor(part, dtype, where)))
            contents.tensors[tensor] = assemble(entry.shape, dtype, parts, index, where)
        else:
            contents.tensors[tensor] = bundle.tensor(entry, dtype.newbyteorder(order), where)
    return contents


class _Bundle:
    """The data files beside an index."""

    def __init__(self, folder: Folder, index: File, prefix: str, count: int) -> None:
        self._folder = folder
        self._index = index
        self._prefix = prefix
        self._count = count
        self._files: dict[int, File] = {}

    def check(self, entries: list[_Entry]) -> None:
        """Open every data file that is needed; raise CheckpointError if one is missing or bytes are claimed twice."""
        for entry in entries:
            if not 0 <= entry.shard < self._count:
                raise self._index.damaged(f"{entry.where}: data file {entry.shard} of {self._count}")
        needed = sorted({entry.shard for entry in entries})
        missing = [f"`{self._name(shard)}` is missing" for shard in needed if not self._folder.has(self._name(shard))]
        if missing:
            prefixes = {found["prefix"] for found in map(DATA_FILE.fullmatch, self._folder.names()) if found}
            others = ", ".join(f"`{prefix}`" for prefix in sorted(prefixes - {self._prefix})[:3])
            raise CheckpointError(
                f"`{self._index.name}` lacks {len(missing)} of its {len(needed)} data files",
                found=missing,
                help="the index and its data files share one folder and one prefix"
                + (f"; there are data files of {others}" if others else ": copy or download them too"),
            )
        self._files = {shard: self._folder.open(self._name(shard)) for shard in needed}
        end, last_shard = 0, -1
        for entry in sorted(entries, key=lambda entry: (entry.shard, entry.offset, entry.size)):
            file = self._files[entry.shard]
            if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > len(file.data):
                raise file.damaged(
                    f"{entry.where} lies outside it",
                    f"the index says {entry.size} bytes at byte {entry.offset}, the file has {len(file.data)}",
                )
            if entry.shard != last_shard:
                end, last_shard = 0, entry.shard
            if entry.size and entry.offset < end:  # else a small index could have one large tensor read many times
                raise self._index.damaged(
                    f"{entry.where}: byte {entry.offset} of `{file.name}` belongs to another tensor too"
                )
            end = max(end, entry.offset + entry.size)

    def tensor(self, entry: _Entry, dtype: np.dtype[Any], where: str) -> Array:
        """Show one tensor's bytes after comparing their checksum."""
        file = self._files[entry.shard]
        data = file.data[entry.offset : entry.offset + entry.size]
        array = view(data, entry.shape, dtype, file, where)
        computed = tf_table.masked_crc32c(data)
        if computed != entry.crc32c:
            raise file.damaged(
                f"{where} fails its checksum",
                f"{entry.size} bytes at byte {entry.offset} have masked crc32c {computed:#010x}, "
                f"the index says {entry.crc32c:#010x}",
            )
        return array

    def _name(self, shard: int) -> str:
        return f"{self._prefix}.data-{shard:05d}-of-{self._count:05d}"


def slice_key(name: bytes, piece: Slice) -> bytes:
    """Encode the key of one slice (tensorflow: core/util/saved_tensor_slice_util.cc, core/lib/strings/ordered_code.cc).

    >>> from resforward.checkpoints.tf_tensor import Extent
    >>> slice_key(b"w", (Extent(0, 64), Extent(0, -1)))
    b'\\x00w\\x00\\x01\\x01\\x02\\x80\\xc0@\\x80\\x7f'
    """
    escaped = name.replace(b"\0", b"\0\xff")  # 0xff is escaped too, but UTF-8 has none
    rank = len(piece).to_bytes(1, "big").lstrip(b"\0")
    key = b"\0" + escaped + b"\0\x01" + bytes([len(rank)]) + rank
    return key + b"".join(_ordered(number) for extent in piece for number in extent)


def _ordered(value: int) -> bytes:
    """Encode a signed integer so that bytes sort as numbers do: n leading ones (as n bytes), the sign, the rest."""
    magnitude = ~value if value < 0 else value
    size = magnitude.bit_length() // 7 + 1  # value is in [-2**(7n-1), 2**(7n-1))
    ones = ((1 << size) - 1) << (7 * size)
    return ((value ^ ones) & ((1 << 8 * size) - 1)).to_bytes(size, "big")


def _header(message: memoryview, index: File) -> tuple[int, _Order]:
    """Read a BundleHeaderProto: the number of data files, and their byte order."""
    shards, endianness = 0, _LITTLE
    for number, wire, value, data in protobuf.fields(message, index, "header"):
        if number in (1, 2):
            protobuf.expect(wire, protobuf.VARINT, number, index, "header")
        if number == 1:
            shards = protobuf.signed(value)
        elif number == 2:
            endianness = value
        elif number == 3:
            protobuf.expect(wire, protobuf.BYTES, number, index, "header")
            check_version(data, index)
    if not 0 < shards <= _MAX_SHARDS:
        raise index.damaged(f"its header says {shards} data files", f"1 to {_MAX_SHARDS} are read")
    if endianness not in (_LITTLE, _BIG):
        raise index.damaged(f"its header says byte order {endianness}", "0 (little) and 1 (big) are known")
    return shards, ">" if endianness == _BIG else "<"


def _entry(message: memoryview, index: File, where: str) -> _Entry:
    """Read a BundleEntryProto."""
    entry = _Entry(where)
    wires = {1: 0, 2: 2, 3: 0, 4: 0, 5: 0, 6: 5, 7: 2}
    for number, wire, value, data in protobuf.fields(message, index, where):
        if number in wires:
            protobuf.expect(wire, wires[number], number, index, where)
        if number == 1:
            entry.kind = value
        elif number == 2:
            entry.shape = shape_of(data, index, where)
        elif number == 3:
            entry.shard = protobuf.signed(value)
        elif number == 4:
            entry.offset = protobuf.signed(value)
        elif number == 5:
            entry.size = protobuf.signed(value)
        elif number == 6:
            entry.crc32c = int.from_bytes(data, "little")
        elif number == 7:
            entry.slices.append(slice_of(data, index, where))
    return entry
