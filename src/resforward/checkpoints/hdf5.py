"""HDF5, as much of it as Keras writes through h5py, read by Python alone from the mapped file.

Why not through h5py: libhdf5 is C code that follows every address it finds. Memory errors on malformed files are
reported against it year after year (HDFGroup/hdf5 #5382, #5571, #5869, #6401), and 2.0.0 (h5py 3.16) ended with a
segmentation fault on 1 of 3,000 mutants of this project's golden files. A guard in front of it would have to read the
superblock, object headers, B-trees, heaps, types and layouts, with the same care; what is left after that is to slice
the file, or to inflate a chunk. pyfive does read these files without C, but takes every link, filter and size from the
file as it stands and brings numcodecs, fsspec and NumPy 2; neither is a guard. So one reader is both, it needs no
package, and arrays that lie in one run stay views of the file.

What h5py writes by default (support.hdfgroup.org: HDF5 File Format Specification 3.0; section in brackets):

    superblock 0 [II.A]         "\\x89HDF", sizes of addresses (8), the end of the file, the root's object header
    object header 1 [IV.A.1]    messages: kind, size, flags, body; more blocks through message 0x10
    group [III.A, III.D]        message 0x11: B-tree "TREE" -> "SNOD" nodes of (name in a "HEAP", object header)
    dataset                     messages 0x01 shape, 0x03 type, 0x08 layout, 0x0b filters
    attribute                   message 0x0c: name, type, shape and value; long strings lie in a "GCOL" heap [III.E]

Refused by name: links of any kind but a group's own members, values in other files, virtual datasets, filters other
than gzip, shuffle and fletcher32, types other than numbers and (in attributes) strings, values that were never written,
and newer layouts (`libver="latest"`, `track_order=True`), which Keras does not use. Every object is visited, whether
it is wanted or not; none twice; and no two blocks share a byte. Metadata of this version has no checksum.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from resforward.checkpoints.arrays import BFLOAT16, Array, byte_size, frozen, view
from resforward.checkpoints.files import File
from resforward.errors import CheckpointError

MAGIC = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK = 96
_UNDEFINED = (1 << 64) - 1
_MAX_OBJECTS = 16384  # a ResNet-200 with its optimizer's state has 5,000
_MAX_DEPTH = 32
_MAX_RANK = 8
_MAX_LEVELS = 8  # of a B-tree
_MAX_NAME = 1024
_MAX_HEADER_BLOCKS = 256
_SAVE_AGAIN = "load it with a Keras that you trust, and save its weights again"

_SHAPE, _TYPE, _LAYOUT, _FILTERS, _ATTRIBUTE, _MORE, _MEMBERS = 0x01, 0x03, 0x08, 0x0B, 0x0C, 0x10, 0x11
_HARMLESS = {
    0x00: "padding",
    0x04: "fill value, old",
    0x05: "fill value",
    0x0A: "group info",
    0x0D: "comment",
    0x0E: "modification time, old",
    0x12: "modification time",
    0x13: "B-tree sizes",
    0x16: "reference count",
}
_REFUSED = {
    0x02: "links in a newer layout than h5py's default",
    0x07: "external storage: its values lie in another file",
    0x0F: "messages shared between objects",
    0x14: "a file driver of its own",
    0x15: "attributes in a newer layout than h5py's default",
}
_LINKS = {0: "a link in a newer layout than h5py's default", 1: "a soft link", 64: "an external link"}
_CLASSES = {
    2: "times",
    3: "strings",
    4: "bit fields",
    5: "opaque bytes",
    6: "a compound type",
    7: "object or region references",
    8: "an enumeration",
    9: "values of variable length",
    10: "an array type",
}
# Precision, exponent at, its size, mantissa at, its size, exponent bias [IV.A.2.d, class 1].
_FLOATS = {
    (16, 10, 5, 0, 10, 15): "f2",
    (32, 23, 8, 0, 23, 127): "f4",
    (64, 52, 11, 0, 52, 1023): "f8",
}
_GZIP, _SHUFFLE, _FLETCHER32 = 1, 2, 3


class _Message(NamedTuple):
    kind: int
    body: memoryview
    where: str


class _String(NamedTuple):
    """A type of text: `size` bytes each, or None for text in a global heap."""

    size: int | None


class _Opaque(NamedTuple):
    """Bytes without a meaning, which is how h5py stores bfloat16."""

    size: int


class _Unread(NamedTuple):
    """A type that is never read."""

    what: str


_Type = np.dtype[Any] | _String | _Opaque | _Unread


class _Attribute(NamedTuple):
    type: _Type
    shape: tuple[int, ...] | None
    value: memoryview


class _Node(NamedTuple):
    """A group, or a dataset where `parts` has the bodies of its messages."""

    attributes: dict[str, _Attribute]
    parts: dict[int, memoryview] | None


@dataclass
class Tree:
    """Every object of a file by its path, without a leading slash; the root is the empty path.

    >>> tree = read_tree(DiskFolder(Path("models")).open("resnet50.weights.h5"))  # doctest: +SKIP
    >>> tree.array("layers/conv2d/vars/0").shape  # doctest: +SKIP
    (7, 7, 3, 64)
    """

    file: File
    _nodes: dict[str, _Node] = field(default_factory=dict)
    _blocks: dict[int, int] = field(default_factory=dict)
    _heaps: dict[int, dict[int, memoryview]] = field(default_factory=dict)
    _end: int = 0

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def datasets(self) -> list[str]:
        """The paths of all datasets, in the order of the file's B-trees: by bytes of the name, group for group."""
        return [path for path, node in self._nodes.items() if node.parts is not None]

    def is_dataset(self, path: str) -> bool:
        """Tell whether a path is that of a dataset."""
        return path in self._nodes and self._nodes[path].parts is not None

    def members(self) -> list[str]:
        """The names in the root group, for messages."""
        return [path for path in self._nodes if path and "/" not in path]

    def strings(self, path: str, name: str) -> list[str] | None:
        """Return an attribute of text, a scalar as a list of one; None where there is no such attribute.

        Raises:
            CheckpointError: it holds something else than text, or its text cannot be read.
        """
        attribute = self._nodes[path].attributes.get(name) if path in self._nodes else None
        if attribute is None:
            return None
        where = f"attribute `{name}` of `/{path}`"
        kind, shape = attribute.type, attribute.shape
        if shape is not None and math.prod(shape) == 0:  # h5py writes an empty list as one of float64
            return []
        if not isinstance(kind, _String) or shape is None or len(shape) > 1:
            raise self.file.damaged(f"{where} holds {_describe(kind)} of shape {shape}, expected a list of strings")
        size = 16 if kind.size is None else kind.size
        count = math.prod(shape)
        if count * size > len(attribute.value) or size < 1:
            raise self.file.damaged(f"{where} has {len(attribute.value)} bytes for {count} strings of {size}")
        self.file.budget.take_steps(count, f"`{self.file.name}`")
        pieces = (attribute.value[at * size : (at + 1) * size] for at in range(count))
        return [self._text(piece, kind, where) for piece in pieces]

    def array(self, path: str) -> Array:
        """Return a dataset: a view of the file where its bytes are in one run.

        Raises:
            CheckpointError: there is none, it is of a type or layout that is not read, or it was never written.
        """
        where = f"dataset `/{path}`"
        if not self.is_dataset(path):
            raise self.file.damaged(f"there is no {where}")
        node = self._nodes[path]
        parts = node.parts or {}
        missing = [
            name for kind, name in ((_SHAPE, "shape"), (_TYPE, "type"), (_LAYOUT, "layout")) if kind not in parts
        ]
        if missing:
            raise self.file.damaged(f"{where} has no {' and no '.join(missing)}")
        shape = self._shape(parts[_SHAPE], where)
        dtype, _ = self._type(parts[_TYPE], where)
        if isinstance(dtype, _Opaque) and dtype.size == 2 and self.strings(path, "dtype") == ["bfloat16"]:
            dtype = BFLOAT16
        if shape is None or not isinstance(dtype, np.dtype):
            holds = "nothing" if shape is None else _describe(dtype)
            raise self._refused(f"{where} holds {holds}", "tensors are numbers")
        size = byte_size(shape, dtype, self.file, where)
        layout = _Cursor(parts[_LAYOUT], self.file, f"the layout of {where}")
        version, kind = layout.unpack("<BB")
        if kind == 3:
            raise self._refused(f"{where} is a virtual dataset", "its values lie in other files")
        if version != 3 or kind > 3:
            raise self._refused(f"{where} has layout {kind} of version {version}", "those of version 3 are read")
        if kind != 2 and _FILTERS in parts:
            raise self.file.damaged(f"{where} has filters, and no chunks to apply them to")
        if kind == 0:
            (count,) = layout.unpack("<H")
            return view(layout.take(count), shape, dtype, self.file, where)
        if kind == 1:
            address, count = layout.unpack("<QQ")
            if not size and address == _UNDEFINED:
                return frozen(np.empty(shape, dtype))
            self._check_written(address, where)
            return view(self._block(address, count, where), shape, dtype, self.file, where)
        return self._chunked(layout, shape, dtype, parts.get(_FILTERS), where)

    def check_blocks(self) -> None:
        """Raise CheckpointError where two blocks that were read share bytes."""
        previous, end = 0, 0
        for start, size in sorted(self._blocks.items()):
            if start < end:
                raise self.file.damaged(f"the blocks at bytes {previous} and {start} overlap")
            previous, end = start, start + size

    # --- groups and headers ---

    def _walk(self) -> None:
        data = self.file.data
        if len(data) < _SUPERBLOCK:
            raise self.file.damaged(f"it has {len(data)} bytes, and its first block takes {_SUPERBLOCK}")
        if data[8] != 0:
            raise self._refused(f"it has a superblock of version {data[8]}", "h5py writes 0 by default, as Keras does")
        sizes = tuple(data[13:15])
        if sizes != (8, 8):
            raise self._refused(f"its addresses and lengths take {sizes} bytes", "8 and 8 are read")
        base, _, self._end, driver, _, root = struct.unpack_from("<6Q", data, 24)
        if self._end > len(data):
            raise self.file.damaged(f"it is cut short: {len(data)} bytes of {self._end}")
        if base or driver != _UNDEFINED:
            raise self._refused("it has a user block or a file driver", "Keras writes neither")
        self._block(0, _SUPERBLOCK, "the superblock")
        pending = [("", root)]
        while pending:
            path, address = pending.pop()
            if len(self._nodes) + len(pending) >= _MAX_OBJECTS:
                raise self._refused(
                    f"it holds more than {_MAX_OBJECTS} groups and datasets",
                    "a ResNet-200 with its optimizer has 5,000",
                )
            if path.count("/") >= _MAX_DEPTH:
                raise self._refused(f"its groups are nested more than {_MAX_DEPTH} deep", f"`/{path[:80]}...`")
            members = self._object(path, address)
            pending += [(f"{path}/{name}" if path else name, at) for name, at in reversed(members)]

    def _object(self, path: str, address: int) -> list[tuple[str, int]]:
        """Read one object header; return the members of a group."""
        attributes: dict[str, _Attribute] = {}
        parts: dict[int, memoryview] = {}
        for message in self._messages(address, f"`/{path}`"):
            if message.kind == _ATTRIBUTE:
                name, attribute = self._attribute(message.body, f"an attribute of `/{path}`")
                if name in attributes:
                    raise self.file.damaged(f"`/{path}` has two attributes `{name}`")
                attributes[name] = attribute
            elif message.kind in parts:
                raise self.file.damaged(f"`/{path}` has two messages of kind {message.kind:#x}")
            else:
                parts[message.kind] = message.body
        group = parts.pop(_MEMBERS, None)
        self._nodes[path] = _Node(attributes, parts if group is None else None)
        if group is None:
            if not path:
                raise self.file.damaged("its root is not a group")
            return []
        if parts:
            raise self.file.damaged(f"`/{path}` is a group and a dataset at once")
        return self._members(group, f"group `/{path}`")

    def _messages(self, address: int, where: str) -> Iterator[_Message]:
        """Yield the messages of an object header that matter; refuse those that must not be there."""
        if self._bytes(address, 4, f"the header of {where}") == b"OHDR":
            raise self._refused(
                f"{where} is in a newer layout",
                'written with `libver="latest"` or `track_order=True`, which Keras is not',
            )
        start = _Cursor(self._bytes(address, 16, f"the header of {where}"), self.file, f"the header of {where}")
        version, _, left, _, size = start.unpack("<BBHII")
        if version != 1:
            raise self.file.damaged(f"the header of {where} at byte {address} has version {version}, expected 1")
        blocks = [self._block(address, 16 + size, f"the header of {where}")[16:]]
        for number in itertools.count():
            if number == len(blocks):
                break
            block = _Cursor(blocks[number], self.file, f"the header of {where}")
            while left and block.left >= 8:
                left -= 1
                self.file.budget.take_steps(1, f"`{self.file.name}`")
                kind, length, flags = block.unpack("<HHB3x")
                body = block.take(length)
                if kind in _REFUSED:
                    raise self._refused(f"{where} has {_REFUSED[kind]}", "Keras writes none")
                if kind == 0x06:
                    raise self._refused(f"{where} has {_link(body)}", "Keras writes none")
                if kind in _HARMLESS:
                    continue
                if kind not in (_SHAPE, _TYPE, _LAYOUT, _FILTERS, _ATTRIBUTE, _MORE, _MEMBERS):
                    raise self.file.damaged(f"{where} has a message of kind {kind:#x}, which HDF5 does not know")
                if flags & 2:
                    raise self._refused(f"{where} shares a message with other objects", "Keras writes none")
                if kind == _MORE:
                    if len(blocks) == _MAX_HEADER_BLOCKS:
                        raise self.file.damaged(f"the header of {where} has more than {_MAX_HEADER_BLOCKS} blocks")
                    at, more = _Cursor(body, self.file, f"the header of {where}").unpack("<QQ")
                    blocks.append(self._block(at, more, f"the header of {where}"))
                else:
                    yield _Message(kind, body, where)
        if left:
            raise self.file.damaged(f"the header of {where} lacks {left} of its messages")

    def _members(self, body: memoryview, where: str) -> list[tuple[str, int]]:
        """List a group's members in the order of its B-tree."""
        tree, heap = _Cursor(body, self.file, where).unpack("<QQ")
        head = _Cursor(self._block(heap, 32, f"the names of {where}"), self.file, f"the names of {where}")
        magic, version, size, _, segment = head.unpack("<4sB3xQQQ")
        if magic != b"HEAP" or version != 0:
            raise self.file.damaged(f"the names of {where} at byte {heap} are no heap")
        names = self._block(segment, size, f"the names of {where}")
        found: dict[str, int] = {}
        for _, node in self._btree(tree, 0, 8, None, where):
            entries = _Cursor(self._bytes(node, 8, where), self.file, where)
            magic, version, count = entries.unpack("<4sBxH")
            if magic != b"SNOD" or version != 1:
                raise self.file.damaged(f"{where} has no list of members at byte {node}")
            rows = self._block(node, 8 + 40 * count, where)[8:]
            for offset, address, cache in struct.iter_unpack("<QQI20x", rows):
                self.file.budget.take_steps(1, f"`{self.file.name}`")
                name = self._name(names, offset, where)
                if cache == 2 or address == _UNDEFINED:
                    raise self._refused(f"`{name}` in {where} is a soft link", "Keras writes none")
                if name in found:
                    raise self.file.damaged(f"{where} has two members `{name}`")
                found[name] = address
        return list(found.items())

    def _btree(
        self, address: int, kind: int, key_size: int, level: int | None, where: str
    ) -> Iterator[tuple[memoryview, int]]:
        """Yield (key before it, child) of every leaf of a version 1 B-tree [III.A.1]."""
        head = _Cursor(self._bytes(address, 24, f"the B-tree of {where}"), self.file, f"the B-tree of {where}")
        magic, found_kind, found_level, count = head.unpack("<4sBBH")
        if magic != b"TREE" or found_kind != kind:
            raise self.file.damaged(f"the B-tree of {where} has no node at byte {address}")
        if found_level >= _MAX_LEVELS if level is None else found_level != level:
            raise self.file.damaged(f"the B-tree of {where} has a node of level {found_level} at byte {address}")
        size = 24 + count * (key_size + 8) + key_size
        rows = self._block(address, size, f"the B-tree of {where}")[24:]
        self.file.budget.take_steps(count, f"`{self.file.name}`")
        for at in range(0, count * (key_size + 8), key_size + 8):
            child = int.from_bytes(rows[at + key_size : at + key_size + 8], "little")
            if found_level:
                yield from self._btree(child, kind, key_size, found_level - 1, where)
            else:
                yield rows[at : at + key_size], child

    def _name(self, names: memoryview, offset: int, where: str) -> str:
        raw = bytes(names[offset : offset + _MAX_NAME + 1]) if offset < len(names) else b""
        name, stop, _ = raw.partition(b"\0")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text = ""
        if not stop or not text or "/" in text or text in (".", ".."):
            raise self.file.damaged(f"{where} has a member whose name cannot be: {name[:60]!r}")
        return text

    # --- attributes, shapes and types ---

    def _attribute(self, body: memoryview, where: str) -> tuple[str, _Attribute]:
        cursor = _Cursor(body, self.file, where)
        version, flags, name_size, type_size, shape_size = cursor.unpack("<BBHHH")
        if version not in (1, 2, 3) or (version > 1 and flags):
            raise self._refused(f"{where} has version {version}, flags {flags:#x}", "versions 1 to 3 are read, flags 0")
        if version == 3:
            cursor.take(1)  # the character set: ASCII is UTF-8 too
        align = 8 if version == 1 else 1
        name = bytes(cursor.take(name_size, align)).rstrip(b"\0").decode("utf-8", "backslashreplace")
        where = f"{where}, `{name[:80]}`"
        kind, _ = self._type(cursor.take(type_size, align), where)
        shape = self._shape(cursor.take(shape_size, align), where)
        return name, _Attribute(kind, shape, cursor.take(cursor.left))

    def _shape(self, body: memoryview, where: str) -> tuple[int, ...] | None:
        """Read a dataspace message; None for one that holds nothing [IV.A.2.b]."""
        cursor = _Cursor(body, self.file, f"the shape of {where}")
        version, rank, flags, kind = cursor.unpack("<BBBB")
        if version == 1:
            cursor.take(4)
        if version not in (1, 2) or flags > 1:
            raise self.file.damaged(f"the shape of {where} has version {version}, flags {flags:#x}")
        if rank > _MAX_RANK:
            raise self.file.damaged(f"{where} has {rank} dimensions", f"at most {_MAX_RANK} are read")
        return None if version == 2 and kind == 2 else cursor.unpack(f"<{rank}Q")

    def _type(self, body: memoryview, where: str) -> tuple[_Type, int]:
        """Read a datatype message [IV.A.2.d]; also what it takes of its bytes."""
        cursor = _Cursor(body, self.file, f"the type of {where}")
        head, low, sign, _, size = cursor.unpack("<BBBBI")
        kind, version = head & 15, head >> 4
        if version not in (1, 2, 3):
            raise self.file.damaged(f"the type of {where} has version {version}")
        order = "<>"[low & 1]
        if kind == 0:
            offset, precision = cursor.unpack("<HH")
            if size not in (1, 2, 4, 8) or (offset, precision) != (0, 8 * size):
                return _Unread(f"integers of {precision} bits in {size} bytes"), 12
            return np.dtype(f"{order}{'i' if low & 8 else 'u'}{size}"), 12
        if kind == 1:
            offset, *form = cursor.unpack("<HHBBBBI")
            name = _FLOATS.get(tuple(form))
            plain = name and size * 8 == form[0] and not offset and low & 0b11_1111_0 == 0b10_0000 and not low & 0x40
            if not plain or sign != form[0] - 1:
                return _Unread(f"floats of {form[0]} bits in a form of their own"), 20
            return np.dtype(f"{order}{name}"), 20
        if kind == 3:
            return _String(size), 8
        if kind == 5:
            return _Opaque(size), 8
        if kind == 9 and low & 15 == 1 and size == 16:
            return _String(None), 8
        return _Unread(_CLASSES.get(kind, f"a type of class {kind}")), 8

    def _text(self, piece: memoryview, kind: _String, where: str) -> str:
        if kind.size is None:
            length, address, index = struct.unpack("<IQI", piece)
            piece = self._heap(address).get(index, memoryview(b"")) if length else piece[:0]
            if len(piece) < length:
                raise self.file.damaged(f"{where} has a string of {length} bytes, and {len(piece)} of it are there")
            piece = piece[:length]
        self.file.budget.take_bytes(len(piece), f"`{self.file.name}`: {where}")
        try:
            text = bytes(piece).rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise self.file.damaged(f"{where} holds text that is not UTF-8", f"{error}") from error
        if "\0" in text:
            raise self.file.damaged(f"{where} holds text with a NUL in it", f"{text[:80]!r}")
        return text

    def _heap(self, address: int) -> dict[int, memoryview]:
        """Read a global heap: its objects by index."""
        if address not in self._heaps:
            where = f"the strings at byte {address}"
            head = _Cursor(self._bytes(address, 16, where), self.file, where)
            magic, version, size = head.unpack("<4sB3xQ")
            if magic != b"GCOL" or version != 1 or size < 16:
                raise self.file.damaged(f"there are no strings at byte {address}")
            cursor = _Cursor(self._block(address, size, where)[16:], self.file, where)
            found: dict[int, memoryview] = {}
            while cursor.left >= 16:
                self.file.budget.take_steps(1, f"`{self.file.name}`")
                index, _, length = cursor.unpack("<HH4xQ")
                if not index:  # free space, to the end
                    break
                if index in found:
                    raise self.file.damaged(f"{where} have two of number {index}")
                found[index] = cursor.take(length, 8)
            self._heaps[address] = found
        return self._heaps[address]

    # --- values ---

    def _chunked(
        self, layout: _Cursor, shape: tuple[int, ...], dtype: np.dtype[Any], filters: memoryview | None, where: str
    ) -> Array:
        """Put the chunks of a dataset together; each must be there, once [III.A.1, IV.A.2.i]."""
        rank, address = layout.unpack("<BQ")
        *chunk, itemsize = layout.unpack(f"<{rank}I") if rank else (0, 0)
        if len(chunk) != len(shape) or not shape or itemsize != dtype.itemsize or not all(chunk):
            raise self.file.damaged(f"{where} has chunks of {(*chunk, itemsize)}", f"its shape is {shape} of {dtype}")
        pipeline = self._pipeline(filters, where)
        counts = [-(-size // step) for size, step in zip(shape, chunk, strict=True)]
        expected = math.prod(counts)
        chunk_bytes = byte_size(tuple(chunk), dtype, self.file, where)
        if not expected:
            return frozen(np.empty(shape, dtype))
        self._check_written(address, where)
        self.file.budget.take_steps(expected, f"`{self.file.name}`: {where}")
        self.file.budget.take_bytes(byte_size(shape, dtype, self.file, where), f"`{self.file.name}`: {where}")
        self.file.budget.take_bytes(2 * chunk_bytes, f"`{self.file.name}`: a chunk of {where}")
        whole = np.empty(shape, dtype)
        seen: set[tuple[int, ...]] = set()
        for key, child in self._btree(address, 1, 8 + 8 * rank, None, where):
            stored, mask, *place = struct.unpack(f"<II{rank}Q", key)
            starts = tuple(place[:-1])
            outside = any(at % step or at >= size for at, step, size in zip(starts, chunk, shape, strict=True))
            if outside or place[-1] or starts in seen:
                raise self.file.damaged(f"{where} has a chunk at {starts} that cannot be, or the same one twice")
            seen.add(starts)
            raw = self._block(child, stored, f"a chunk of {where}")
            values = self._unfilter(raw, pipeline, mask, chunk_bytes, itemsize, where)
            room = tuple(min(step, size - at) for at, step, size in zip(starts, chunk, shape, strict=True))
            inside = tuple(slice(n) for n in room)
            target = tuple(slice(at, at + n) for at, n in zip(starts, room, strict=True))
            whole[target] = view(values, tuple(chunk), dtype, self.file, where)[inside]
        if len(seen) != expected:
            raise self._refused(
                f"{where} has {len(seen)} of its {expected} chunks",
                "the others were never written: a shape without values",
            )
        return frozen(whole)

    def _pipeline(self, body: memoryview | None, where: str) -> list[int]:
        """Read a filter message: numbers of the filters in the order they were applied [IV.A.2.l]."""
        if body is None:
            return []
        cursor = _Cursor(body, self.file, f"the filters of {where}")
        version, count = cursor.unpack("<BB")
        if version not in (1, 2):
            raise self.file.damaged(f"the filters of {where} have version {version}")
        cursor.take(6 if version == 1 else 0)
        pipeline = []
        for _ in range(count):
            (number,) = cursor.unpack("<H")
            (name_size,) = cursor.unpack("<H") if version == 1 or number >= 256 else (0,)
            _, values = cursor.unpack("<HH")
            name = bytes(cursor.take(name_size, 8 if version == 1 else 1)).rstrip(b"\0")
            cursor.take(4 * (values + values % 2 if version == 1 else values))
            if number not in (_GZIP, _SHUFFLE, _FLETCHER32) or number in pipeline:
                known = "gzip, shuffle and fletcher32 are read, each once"
                raise self._refused(f"{where} uses filter {number} {name[:40]!r}", known)
            pipeline.append(number)
        return pipeline

    def _unfilter(
        self, raw: memoryview, pipeline: list[int], mask: int, size: int, itemsize: int, where: str
    ) -> memoryview:
        """Undo a chunk's filters, last first, into exactly `size` bytes."""
        if mask >> len(pipeline):
            raise self.file.damaged(f"a chunk of {where} leaves out filters that it does not have")
        for place, number in reversed(list(enumerate(pipeline))):
            if mask >> place & 1:  # an optional filter that did not pay
                continue
            if number == _FLETCHER32:
                raw, stored = raw[:-4], int.from_bytes(raw[-4:], "little")
                if fletcher32(raw) != stored:
                    raise self.file.damaged(f"a chunk of {where} fails its checksum")
            elif number == _GZIP:
                before = pipeline[:place]
                limit = size + 4 * (_FLETCHER32 in before)
                stream = zlib.decompressobj()
                try:
                    unpacked = stream.decompress(raw, limit + 1)
                except zlib.error as error:
                    raise self.file.damaged(f"a chunk of {where} cannot be unpacked", f"{error}") from error
                if len(unpacked) > limit or not stream.eof:
                    reason = "more than" if len(unpacked) > limit else f"{len(unpacked)} bytes and breaks off, not"
                    raise self.file.damaged(f"a chunk of {where} unpacks to {reason} {limit} bytes")
                raw = memoryview(unpacked)
            else:
                whole = len(raw) - len(raw) % itemsize
                bytes_ = np.frombuffer(raw[:whole], np.uint8).reshape(itemsize, -1).T
                raw = memoryview(bytes_.tobytes() + bytes(raw[whole:]))
        if len(raw) != size:
            raise self.file.damaged(f"a chunk of {where} has {len(raw)} bytes, expected {size}")
        return raw

    # --- bytes ---

    def _check_written(self, address: int, where: str) -> None:
        if address == _UNDEFINED:
            raise self._refused(f"{where} was never written", "it has a shape, and no values behind it")

    def _bytes(self, address: int, size: int, where: str) -> memoryview:
        if address > self._end or size > self._end - address:
            raise self.file.damaged(f"{where} is {size} bytes at byte {address}", f"the file has {self._end}")
        return self.file.data[address : address + size]

    def _block(self, address: int, size: int, where: str) -> memoryview:
        """Return bytes that belong to one block alone."""
        data = self._bytes(address, size, where)
        if size:
            if address in self._blocks:
                raise self.file.damaged(f"{where} at byte {address} is in use already: a link in a circle, or twice")
            self._blocks[address] = size
        return data

    def _refused(self, what: str, why: str) -> CheckpointError:
        return CheckpointError(f"refused `{self.file.name}`: {what}", found=[why], help=_SAVE_AGAIN)


class _Cursor:
    """Takes bytes one after the other, and never more than there are."""

    def __init__(self, data: memoryview, file: File, where: str) -> None:
        self._data, self._file, self._where = data, file, where
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int, align: int = 1) -> memoryview:
        """Take some bytes, and what pads them to a multiple of `align`."""
        if size > self.left:
            raise self._file.damaged(f"{self._where}: {size} bytes expected, {self.left} are left")
        taken = self._data[self._at : self._at + size]
        self._at = min(self._at + -(-size // align) * align, len(self._data))
        return taken

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))


def read_tree(file: File) -> Tree:
    """Visit every object of an HDF5 file, and read no values yet.

    Raises:
        CheckpointError: the file is damaged, or holds anything that the module's docstring says is refused.
    """
    tree = Tree(file)
    tree._walk()
    return tree


def fletcher32(data: memoryview) -> int:
    """Return the checksum of HDF5's filter 3: two sums of big-endian words modulo 65535.

    >>> hex(fletcher32(memoryview(b"abcdef")))
    '0x2b29c72a'

    A remainder of 0 may be stored as 65535 (HDFGroup/hdf5: src/H5checksum.c folds its sums), and is told apart only by
    sums that are zero from the start.
    """
    words = np.frombuffer(bytes(data) + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    places = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    first, second = int(words.sum()), int((words * places).sum())
    return _fold(second) << 16 | _fold(first)


def _fold(total: int) -> int:
    return total % 65535 or (65535 if total else 0)


def _link(body: memoryview) -> str:
    """Name the kind of a link message [IV.A.2.g]."""
    flags = body[1] if len(body) > 2 else 0
    return _LINKS.get(body[2] if flags & 8 else 0, "a link of a kind of its own")


def _describe(kind: _Type) -> str:
    if isinstance(kind, _Unread):
        return kind.what
    if isinstance(kind, _String):
        return "strings"
    return "opaque bytes" if isinstance(kind, _Opaque) else kind.name
