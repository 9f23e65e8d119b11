"""HDF5, as much of it as Keras writes, read by Python alone from the mapped file.

Not through h5py: libhdf5 is C code that follows whatever address a file holds. Memory errors on malformed files are
reported against it year after year (HDFGroup/hdf5 #5382, #5571, #5869, #6401), and of 6,000 mutants of small Keras
files version 2.0.0 ended in a segmentation fault on 4 and hung on 1 (`tests/fuzz_checkpoints.py --h5py`). A guard in
front of it would have to understand superblock, object headers, B-trees, heaps, types and layouts; what is left to do
after that is to slice the file, or to inflate a chunk. So the guard is the reader. It needs no package, arrays that lie
in one run stay views of the file, and a file inside an archive is read where it is. pyfive is Python alone, too, but
believes sizes (a file of 2 kB can ask it for 64 GiB), and brings NumPy 2 and three packages.

What h5py writes unless told otherwise (HDF Group: HDF5 File Format Specification, version 3.0; sections in brackets):

    superblock 0 [II.A]        "\\x89HDF", sizes of addresses (8), the end of the file, the root's object header
    object header 1 [IV.A.1]   messages: kind, size, flags, body; message 0x10 leads to more of them
    group [III.A to III.D]     message 0x11: B-tree "TREE" -> nodes "SNOD" of (name in a "HEAP", object header)
    dataset [IV.A.2]           messages 0x01 shape, 0x03 type, 0x08 layout, 0x0b filters
    attribute [IV.A.2.m]       message 0x0c: name, type, shape, value; strings may lie in a heap "GCOL" [III.E]

Refused by name: links of any kind, and objects that are in two groups; values in other files; virtual datasets; filters
but gzip, shuffle and fletcher32; types but numbers, and strings in attributes; datasets that were never written; and
the newer layouts of `libver="latest"`, `track_order=True` and names beyond ASCII. Every object is visited, wanted
or not, and no two blocks may share a byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from resforward.checkpoints.arrays import BFLOAT16, Array, byte_size, frozen, view
from resforward.checkpoints.files import File
from resforward.checkpoints.hdf5_blocks import UNDEFINED, Blocks
from resforward.checkpoints.hdf5_chunks import never_written, read_chunks
from resforward.checkpoints.hdf5_types import Opaque, Shape, Text, Type, describe, shape_of, type_of

MAGIC = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK = 96
_MAX_OBJECTS = 16384  # a ResNet-200 with its optimizer's state has 5,000
_MAX_DEPTH = 32
_MAX_NAME = 1024
_MAX_HEADER_BLOCKS = 256
_SOFT_LINK = 2  # in a group's list of members: a path where an address would be
_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = range(4)

_SHAPE, _TYPE, _LAYOUT, _FILTERS, _ATTRIBUTE, _MORE, _MEMBERS = 0x01, 0x03, 0x08, 0x0B, 0x0C, 0x10, 0x11
_READ = {_SHAPE, _TYPE, _LAYOUT, _FILTERS, _ATTRIBUTE, _MORE, _MEMBERS}
# Padding, fill values, group info, comment, times, sizes of B-tree nodes, reference count.
_HARMLESS = {0x00, 0x04, 0x05, 0x0A, 0x0D, 0x0E, 0x12, 0x13, 0x16}
_LINK = 0x06
_NEWER_LINKS = "links in a newer layout, as h5py uses for names beyond ASCII"
_REFUSED = {
    0x02: _NEWER_LINKS,
    _LINK: _NEWER_LINKS,
    0x07: "external storage: its values lie in another file",
    0x0F: "messages that objects share",
    0x14: "a file driver of its own",
    0x15: "attributes in a newer layout than h5py's default",
}
_LINKS = {1: "a soft link", 64: "an external link"}


class _Attribute(NamedTuple):
    type: Type
    shape: Shape | None
    value: memoryview


class _Node(NamedTuple):
    """A group, or a dataset, which has `parts`: the bodies of its messages."""

    attributes: dict[str, _Attribute]
    parts: dict[int, memoryview] | None


class Tree:
    """Every object of a file by its path, without a leading slash; the root is the empty path.

    >>> tree = Tree(DiskFolder(Path("models")).open("resnet50.weights.h5"))  # doctest: +SKIP
    >>> tree.array("layers/conv2d/vars/0").shape  # doctest: +SKIP
    (7, 7, 3, 64)

    All objects are visited when a tree is made; values are read when they are asked for.

    Raises:
        CheckpointError: the file is damaged, or holds anything that the module's docstring says is refused.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self._nodes: dict[str, _Node] = {}
        self._heaps: dict[int, dict[int, memoryview]] = {}
        self._blocks, root = _superblock(file)
        pending = [("", root)]
        while pending:
            path, address = pending.pop()
            if len(self._nodes) + len(pending) >= _MAX_OBJECTS:
                raise self._blocks.refused(
                    f"it holds more than {_MAX_OBJECTS} groups and datasets",
                    "a ResNet-200 with its optimizer's state has 5,000",
                )
            if path.count("/") >= _MAX_DEPTH:
                raise self._blocks.refused(f"its groups lie more than {_MAX_DEPTH} deep", f"`/{path[:80]}...`")
            members = self._object(path, address)
            pending += [(f"{path}/{name}" if path else name, at) for name, at in reversed(members.items())]

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def datasets(self) -> list[str]:
        """The paths of all datasets, group for group in the order of the file: by the bytes of their names."""
        return [path for path in self._nodes if self.is_dataset(path)]

    def is_dataset(self, path: str) -> bool:
        """Tell whether there is a dataset of this path."""
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
        kind, shape, value = attribute
        if shape is not None and 0 in shape:  # h5py gives an empty list numbers for a type
            return []
        if not isinstance(kind, Text) or shape is None or len(shape) > 1:
            raise self.file.damaged(f"{where} holds {describe(kind)} of shape {shape}, expected a list of strings")
        size = 16 if kind.size is None else kind.size
        count = math.prod(shape)
        if size < 1 or count * size > len(value):
            raise self.file.damaged(f"{where} has {len(value)} bytes for {count} strings of {size}")
        self._blocks.step(count)
        return [self._text(value[at : at + size], kind, where) for at in range(0, count * size, size)]

    def array(self, path: str) -> Array:
        """Return a dataset: a view of the file where its bytes are in one run.

        Raises:
            CheckpointError: there is none, it is of a type or layout that is not read, or it was never written.
        """
        where = f"dataset `/{path}`"
        parts = self._nodes[path].parts if path in self._nodes else None
        if parts is None:
            raise self.file.damaged(f"there is no {where}")
        if not {_SHAPE, _TYPE, _LAYOUT} <= parts.keys():
            raise self.file.damaged(f"{where} lacks its shape, type or layout")
        shape, dtype = shape_of(parts[_SHAPE], self._blocks, where), type_of(parts[_TYPE], self._blocks, where)
        if isinstance(dtype, Opaque) and dtype.size == 2 and self.strings(path, "dtype") == ["bfloat16"]:
            dtype = BFLOAT16
        if shape is None or not isinstance(dtype, np.dtype):
            holds = "nothing" if shape is None else describe(dtype)
            raise self._blocks.refused(f"{where} holds {holds}", "weights are numbers")
        size = byte_size(shape, dtype, self.file, where)
        layout = self._blocks.cursor(parts[_LAYOUT], f"the layout of {where}")
        version, kind = layout.unpack("<BB")
        if kind == _VIRTUAL:
            raise self._blocks.refused(f"{where} is a virtual dataset", "its values lie in other files")
        if version != 3 or kind > _VIRTUAL:
            raise self._blocks.refused(f"{where} has layout {kind} of version {version}", "those of version 3 are read")
        if kind == _CHUNKED:
            return read_chunks(layout, shape, dtype, parts.get(_FILTERS), self._blocks, where)
        if _FILTERS in parts:
            raise self.file.damaged(f"{where} has filters, and no chunks to apply them to")
        if kind == _COMPACT:
            (count,) = layout.unpack("<H")
            return view(layout.take(count), shape, dtype, self.file, where)
        address, count = layout.unpack("<QQ")
        if address == UNDEFINED and not size:
            return frozen(np.empty(shape, dtype))
        if address == UNDEFINED:
            raise never_written(self._blocks, where)
        return view(self._blocks.take(address, count, where), shape, dtype, self.file, where)

    def check_blocks(self) -> None:
        """Raise CheckpointError where blocks that were read so far share bytes."""
        self._blocks.check()

    # --- objects ---

    def _object(self, path: str, address: int) -> dict[str, int]:
        """Read one object header; return a group's members, by their addresses."""
        attributes: dict[str, _Attribute] = {}
        parts: dict[int, memoryview] = {}
        for kind, body in self._messages(address, f"`/{path}`"):
            if kind == _ATTRIBUTE:
                name, attribute = self._attribute(body, f"an attribute of `/{path}`")
                if name in attributes:
                    raise self.file.damaged(f"`/{path}` has two attributes `{name}`")
                attributes[name] = attribute
            elif kind in parts:
                raise self.file.damaged(f"`/{path}` has two messages of kind {kind:#x}")
            else:
                parts[kind] = body
        members = parts.pop(_MEMBERS, None)
        if members is not None and parts:
            raise self.file.damaged(f"`/{path}` is a group and a dataset at once")
        if members is None and not path:
            raise self.file.damaged("its root is not a group")
        self._nodes[path] = _Node(attributes, parts if members is None else None)
        return {} if members is None else self._members(members, f"group `/{path}`")

    def _messages(self, address: int, where: str) -> Iterator[tuple[int, memoryview]]:
        """Yield kind and body of the messages that are read; refuse those that must not be there [IV.A.1.a]."""
        where = f"the header of {where}"
        if bytes(self._blocks.peek(address, 4, where)) == b"OHDR":
            written = '`libver="latest"` and `track_order=True` of h5py write it, Keras does not'
            raise self._blocks.refused(f"{where} is in a newer layout", written)
        version, count, size = self._blocks.cursor(self._blocks.peek(address, 16, where), where).unpack("<BxH4xI4x")
        if version != 1:
            raise self.file.damaged(f"{where} at byte {address} has version {version}, expected 1")
        pending = [self._blocks.take(address, 16 + size, where)[16:]]
        left, refused = count, ""
        for _ in range(_MAX_HEADER_BLOCKS):
            if not pending:
                break
            block = self._blocks.cursor(pending.pop(0), where)
            while block.left >= 8:
                left -= 1
                self._blocks.step()
                kind, length, flags = block.unpack("<HHB3x")
                body = block.take(length)
                if kind in _HARMLESS:
                    continue
                if kind == _LINK and (link := _link(body)):
                    raise self._blocks.refused(f"{where} has {link}", "Keras writes none")
                if kind in _REFUSED:  # but a link that follows says more
                    refused = refused or _REFUSED[kind]
                    continue
                if kind not in _READ:
                    raise self.file.damaged(f"{where} has a message of kind {kind:#x}, which is none of HDF5's")
                if flags & 2:
                    raise self._blocks.refused(f"{where} has {_REFUSED[0x0F]}", "Keras writes none")
                if kind == _MORE:
                    at, more = self._blocks.cursor(body, where).unpack("<QQ")
                    pending.append(self._blocks.take(at, more, where))
                else:
                    yield kind, body
        if refused:
            raise self._blocks.refused(f"{where} has {refused}", "Keras writes none")
        if pending:
            raise self.file.damaged(f"{where} is in more than {_MAX_HEADER_BLOCKS} blocks")
        if left:
            raise self.file.damaged(f"{where} has {count - left} messages, and says that it has {count}")

    def _members(self, body: memoryview, where: str) -> dict[str, int]:
        """List a group's members in the order of its B-tree [III.B, III.C, III.D]."""
        tree, heap = self._blocks.cursor(body, where).unpack("<QQ")
        names_of = f"the names of {where}"
        magic, version, size, segment = self._blocks.cursor(self._blocks.take(heap, 32, names_of), names_of).unpack(
            "<4sB3xQ8xQ"
        )
        if magic != b"HEAP" or version != 0:
            raise self.file.damaged(f"{names_of} are no heap at byte {heap}")
        names = self._blocks.take(segment, size, names_of)
        found: dict[str, int] = {}
        for _, node in self._blocks.btree(tree, 0, 8, where):
            magic, version, count = struct.unpack("<4sBxH", self._blocks.peek(node, 8, where))
            if magic != b"SNOD" or version != 1:
                raise self.file.damaged(f"{where} has no list of members at byte {node}")
            self._blocks.step(count)
            rows = self._blocks.take(node, 8 + 40 * count, where)[8:]
            for offset, address, cache in struct.iter_unpack("<QQI20x", rows):
                name = self._name(names, offset, where)
                if cache == _SOFT_LINK or address == UNDEFINED:
                    raise self._blocks.refused(f"`{name}` in {where} is a soft link", "Keras writes none")
                if name in found:
                    raise self.file.damaged(f"{where} has two members `{name}`")
                found[name] = address
        return found

    def _name(self, names: memoryview, offset: int, where: str) -> str:
        raw, stop, _ = bytes(names[min(offset, len(names)) :][: _MAX_NAME + 1]).partition(b"\0")
        name = raw.decode("utf-8", "backslashreplace")
        if not stop or name in ("", ".", "..") or "/" in name:
            raise self.file.damaged(f"{where} has a member whose name cannot be: `{name[:60]}`")
        return name

    # --- attributes ---

    def _attribute(self, body: memoryview, where: str) -> tuple[str, _Attribute]:
        """Read an attribute message [IV.A.2.m]."""
        cursor = self._blocks.cursor(body, where)
        version, flags, name_size, type_size, shape_size = cursor.unpack("<BBHHH")
        if version not in (1, 2, 3) or (version > 1 and flags):
            found = f"{where} has version {version}, flags {flags:#x}"
            raise self._blocks.refused(found, "versions 1 to 3 without flags are read")
        if version == 3:
            cursor.take(1)  # the character set: ASCII is UTF-8 too
        align = 8 if version == 1 else 1
        name = bytes(cursor.take(name_size, align)).rstrip(b"\0").decode("utf-8", "backslashreplace")
        where = f"{where}, `{name[:80]}`"
        kind = type_of(cursor.take(type_size, align), self._blocks, where)
        shape = shape_of(cursor.take(shape_size, align), self._blocks, where)
        return name, _Attribute(kind, shape, cursor.take(cursor.left))

    def _text(self, piece: memoryview, kind: Text, where: str) -> str:
        if kind.size is None:
            length, address, index = struct.unpack("<IQI", piece)
            piece = self._heap(address).get(index, piece[:0]) if length else piece[:0]
            if len(piece) < length:
                raise self.file.damaged(f"{where} has a string of {length} bytes, and {len(piece)} of them are there")
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
        """Read a global heap, where strings lie: its objects by their numbers [III.E]."""
        if address in self._heaps:
            return self._heaps[address]
        where = f"the heap at byte {address}"
        magic, version, size = struct.unpack("<4sB3xQ", self._blocks.peek(address, 16, where))
        if magic != b"GCOL" or version != 1 or size < 16:
            raise self.file.damaged(f"there is no heap at byte {address}")
        cursor = self._blocks.cursor(self._blocks.take(address, size, where)[16:], where)
        found: dict[int, memoryview] = {}
        while cursor.left >= 16:
            self._blocks.step()
            index, length = cursor.unpack("<H6xQ")
            if not index:  # free space, to the end
                break
            if index in found:
                raise self.file.damaged(f"{where} has two objects of number {index}")
            found[index] = cursor.take(length, 8)
        self._heaps[address] = found
        return found


def _superblock(file: File) -> tuple[Blocks, int]:
    """Read the first block: the file's blocks, and the address of its root [II.A]."""
    data = file.data
    if len(data) < _SUPERBLOCK:
        raise file.damaged(f"it has {len(data)} bytes, and its first block takes {_SUPERBLOCK}")
    base, end, driver, root = struct.unpack_from("<Q8xQQ8xQ", data, 24)
    blocks = Blocks(file, end)
    if data[8] != 0:
        raise blocks.refused(f"its superblock has version {data[8]}", "h5py writes 0 unless told otherwise")
    if tuple(data[13:15]) != (8, 8):
        raise blocks.refused(f"its addresses take {data[13]} bytes, its lengths {data[14]}", "8 and 8 are read")
    if end > len(data):
        raise file.damaged(f"it is cut short: {len(data)} bytes of {end}")
    if any(data[20:24]):
        raise file.damaged("it was not closed by its writer")
    if base or driver != UNDEFINED:
        raise blocks.refused("it has a user block or a file driver", "Keras writes neither")
    blocks.take(0, _SUPERBLOCK, "the superblock")
    return blocks, root


def _link(body: memoryview) -> str:
    """Name the kind of a link message [IV.A.2.g]; empty for a member of the group."""
    kind = body[2] if len(body) > 2 and body[1] & 8 else 0
    return _LINKS.get(kind, f"a link of kind {kind}") if kind else ""
