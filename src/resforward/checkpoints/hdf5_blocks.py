"""Where HDF5 puts things: blocks at addresses of the file, each read once, and B-trees that lead to them.

Metadata of the versions that are read has no checksum, so an address may say anything. What is taken for a block must
lie in the file, belong to nothing else, and share no byte with another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from resforward.checkpoints.files import File
from resforward.errors import CheckpointError

UNDEFINED = (1 << 64) - 1  # the address of what was never written
_MAX_LEVELS = 8  # of a B-tree; three hold a million chunks
_SAVE_AGAIN = "load it with Keras where you trust it, and save its weights again"


class Blocks:
    """The blocks of one file, and which of its bytes have been given out.

    >>> from resforward.checkpoints.files import Budget
    >>> blocks = Blocks(File("x.h5", memoryview(b"0123456789"), Budget()), 10)
    >>> bytes(blocks.take(2, 4, "a heap"))
    b'2345'
    >>> blocks.take(2, 1, "a header")
    Traceback (most recent call last):
    resforward.errors.CheckpointError: `x.h5` is damaged: a header at byte 2 is in use: linked twice, or in a circle
    help: copy or download the file again, and compare its size with its publisher's
    """

    def __init__(self, file: File, end: int) -> None:
        self.file = file
        self._end = end
        self._taken: dict[int, int] = {}

    def peek(self, address: int, size: int, where: str) -> memoryview:
        """Return bytes of the file, or raise CheckpointError where it has none."""
        if address > self._end or size > self._end - address:
            raise self.file.damaged(f"{where} is {size} bytes at byte {address}", f"the file has {self._end}")
        return self.file.data[address : address + size]

    def take(self, address: int, size: int, where: str) -> memoryview:
        """Return bytes that belong to one block alone."""
        data = self.peek(address, size, where)
        if size:
            if address in self._taken:
                raise self.file.damaged(f"{where} at byte {address} is in use: linked twice, or in a circle")
            self._taken[address] = size
        return data

    def check(self) -> None:
        """Raise CheckpointError where two blocks that were taken share bytes."""
        previous, end = 0, 0
        for start, size in sorted(self._taken.items()):
            if start < end:
                raise self.file.damaged(f"the blocks at bytes {previous} and {start} overlap")
            previous, end = start, start + size

    def btree(
        self, address: int, kind: int, key_size: int, where: str, level: int | None = None
    ) -> Iterator[tuple[memoryview, int]]:
        """Yield the children of a B-tree's leaves, each with the key before it (version 1 [III.A.1])."""
        head = self.cursor(self.peek(address, 24, f"the B-tree of {where}"), f"the B-tree of {where}")
        magic, found_kind, found_level, count = head.unpack("<4sBBH")
        if magic != b"TREE" or found_kind != kind:
            raise self.file.damaged(f"the B-tree of {where} has no node at byte {address}")
        if found_level >= _MAX_LEVELS if level is None else found_level != level:
            raise self.file.damaged(f"the B-tree of {where} has a node of level {found_level} at byte {address}")
        row = key_size + 8
        rows = self.take(address, 24 + count * row + key_size, f"the B-tree of {where}")[24:]
        self.step(count)
        for at in range(0, count * row, row):
            child = int.from_bytes(rows[at + key_size : at + row], "little")
            if found_level:
                yield from self.btree(child, kind, key_size, where, found_level - 1)
            else:
                yield rows[at : at + key_size], child

    def cursor(self, data: memoryview, where: str) -> Cursor:
        """Return a cursor at the start of some bytes."""
        return Cursor(data, self.file, where)

    def step(self, count: int = 1) -> None:
        """Account for turns of a loop."""
        self.file.budget.take_steps(count, f"`{self.file.name}`")

    def refused(self, what: str, why: str) -> CheckpointError:
        """Return the error for what HDF5 allows, and no Keras file has."""
        return CheckpointError(f"refused `{self.file.name}`: {what}", found=[why], help=_SAVE_AGAIN)


class Cursor:
    """Takes bytes one after the other, and never more than there are."""

    def __init__(self, data: memoryview, file: File, where: str) -> None:
        self._data, self._file, self._where = data, file, where
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def take(self, size: int, align: int = 1) -> memoryview:
        """Take some bytes, and what pads them to a multiple of `align`."""
        if size > self.left:
            raise self._file.damaged(f"{self._where}: {size} bytes expected, {self.left} are left")
        taken = self._data[self._at : self._at + size]
        self._at = min(self._at + -(-size // align) * align, len(self._data))
        return taken

    def unpack(self, form: str) -> tuple[Any, ...]:
        """Take what a `struct` format describes."""
        return struct.unpack(form, self.take(struct.calcsize(form)))
