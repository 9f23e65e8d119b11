"""Files as read-only memory, the folders they lie in, and the budget that one checkpoint may spend."""

from __future__ import annotations

import itertools
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from resforward.errors import CheckpointError, nearest

_FREE_BYTES = 96 << 20  # what any file may cost, however small
_FREE_STEPS = 400_000  # about half a second of Python; a ResNet-152 with its training slots takes 30,000
_FOLDER_ENTRIES = 10_000
_HEAD, _TAIL = 512, 8
_NOTHING = memoryview(b"")

_PASS = "pass a checkpoint file or its folder"
_COPY_AGAIN = "copy or download the file again, and compare its size with its publisher's"


class Budget:
    """What one checkpoint may cost: bytes allocated and steps taken in Python, both bounded by the size of its files.

    >>> budget = Budget()
    >>> budget.allow(1000)
    >>> budget.take_bytes(1 << 40, "x.ckpt: tensor `w`")
    Traceback (most recent call last):
    resforward.errors.CheckpointError: x.ckpt: tensor `w` would take 1099511627776 bytes of memory
      - at most 100664396 bytes are left for a checkpoint of this size
    help: copy or download the file again, and compare its size with its publisher's
    """

    def __init__(self) -> None:
        self._bytes = _FREE_BYTES
        self._steps = _FREE_STEPS

    def allow(self, file_bytes: int) -> None:
        """Raise the allowance for one file of the checkpoint."""
        self._bytes += file_bytes + file_bytes // 10

    def take_bytes(self, count: int, where: str) -> None:
        """Account for an allocation before it is made; raise CheckpointError when it is more than is left."""
        if count > self._bytes:
            left = f"at most {self._bytes} bytes are left for a checkpoint of this size"
            raise CheckpointError(f"{where} would take {count} bytes of memory", found=[left], help=_COPY_AGAIN)
        self._bytes -= count

    def take_steps(self, count: int, where: str) -> None:
        """Account for iterations of a Python loop; raise CheckpointError when they are more than are left."""
        self._steps -= count
        if self._steps < 0:
            raise CheckpointError(
                f"{where} holds too many small pieces",
                found=[f"a checkpoint of at most {_FREE_STEPS} records and fields is read"],
                help=_COPY_AGAIN,
            )


@dataclass(frozen=True)
class File:
    """The bytes of one file, its name for messages, and the budget of the checkpoint it belongs to."""

    name: str
    data: memoryview
    budget: Budget

    def damaged(self, what: str, *found: str) -> CheckpointError:
        """Return the error for bytes that cannot be what a writer wrote."""
        return CheckpointError(f"`{self.name}` is damaged: {what}", found=found, help=_COPY_AGAIN)


class Folder(Protocol):
    """Where the files of a checkpoint lie side by side: a folder on disk, or an unpacked archive."""

    named_files: bool  # whether a file in it may name another that is read with it: of an archive, one of its own

    @property
    def name(self) -> str:
        """The folder as messages quote it."""

    def names(self) -> list[str]:
        """The names of the files inside, sorted."""

    def has(self, name: str) -> bool:
        """Tell whether a file of this name can be opened."""

    def ends(self, name: str) -> tuple[bytes, bytes]:
        """Return the first 512 and the last 8 bytes of a file that is there: enough to tell what it may be."""

    def open(self, name: str) -> File:
        """Open a file, or raise CheckpointError."""

    def leads_out(self, name: str, beside: str) -> bool:
        """Tell whether a file is a link to somewhere else than where another one lies."""


class DiskFolder:
    """A folder on disk; its files are mapped, not read.

    A mapping follows the file: replace a checkpoint that is in use by renaming a new file over it, never in place.
    """

    def __init__(self, path: Path, named_files: bool = False) -> None:
        self.named_files = named_files
        self._path = path
        self._budget = Budget()
        self._allowed: set[str] = set()

    @property
    def name(self) -> str:
        """The folder as messages quote it."""
        return str(self._path)

    def names(self) -> list[str]:
        """The names inside, sorted; none when there is no such folder."""
        if not os.path.isdir(self._path):
            return []
        try:
            with os.scandir(self._path) as entries:
                names = [entry.name for entry in itertools.islice(entries, _FOLDER_ENTRIES + 1)]
        except OSError as error:
            raise CheckpointError(f"cannot list the folder `{self._path}`: {error.strerror}") from error
        if len(names) > _FOLDER_ENTRIES:
            raise CheckpointError(
                f"the folder `{self._path}` holds more than {_FOLDER_ENTRIES} files",
                help="pass the checkpoint itself, not its folder",
            )
        return sorted(names)

    def has(self, name: str) -> bool:
        """Tell whether a file of this name can be opened."""
        return os.path.isfile(self._path / name)

    def ends(self, name: str) -> tuple[bytes, bytes]:
        """Return the first 512 and the last 8 bytes of a file that is there: enough to tell what it may be."""
        try:
            with open(self._path / name, "rb") as stream:
                head = stream.read(_HEAD)
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
                return head, stream.read(_TAIL)
        except OSError as error:
            raise CheckpointError(f"cannot read `{self._path / name}`: {error.strerror}") from error

    def open(self, name: str) -> File:
        """Map a file, or raise CheckpointError."""
        path = self._path / name
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)  # opening a pipe or a device could wait for ever
            data = _map(path) if regular else _NOTHING
        except FileNotFoundError as error:
            raise self._missing(path) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a file cut short this moment
            raise CheckpointError(f"cannot read `{path}`: {getattr(error, 'strerror', None) or error}") from error
        if not regular:
            raise CheckpointError(f"`{path}` is not a regular file", help=_PASS)
        if name not in self._allowed:
            self._budget.allow(len(data))
            self._allowed.add(name)
        return File(str(path), data, self._budget)

    def leads_out(self, name: str, beside: str) -> bool:
        """Tell whether a file is a link to somewhere else than where another one lies.

        Caches of downloads link both to one place: where the other's own link leads to will do.
        """
        real = Path(os.path.realpath(self._path / name))
        homes = (os.path.realpath(self._path), os.path.dirname(os.path.realpath(self._path / beside)))
        return not any(real.is_relative_to(home) for home in homes)

    def _missing(self, path: Path) -> CheckpointError:
        folder = path.parent
        if not folder.is_dir():
            return CheckpointError(f"no checkpoint `{path}`", found=[f"there is no folder `{folder}`"], help=_PASS)
        names = [name for name in DiskFolder(folder).names() if not name.startswith(".")]
        prefixes = {name.removesuffix(".index") for name in names}
        hint = nearest(path.name, sorted(prefixes.union(names)))
        found = [f"the folder `{folder}` holds {_some(names)}"]
        return CheckpointError(f"no checkpoint `{path}`", found=found, help=hint or _PASS)


class MemoryFolder:
    """The files of an unpacked archive, held in memory."""

    named_files = True

    def __init__(self, name: str, members: dict[str, memoryview], budget: Budget) -> None:
        self._name = name
        self._members = members
        self._budget = budget

    @property
    def name(self) -> str:
        """The archive as messages quote it."""
        return self._name

    def names(self) -> list[str]:
        """The names of the members, sorted."""
        return sorted(self._members)

    def has(self, name: str) -> bool:
        """Tell whether the archive has this member."""
        return str(PurePosixPath(name)) in self._members

    def ends(self, name: str) -> tuple[bytes, bytes]:
        """Return the first 512 and the last 8 bytes of a member."""
        data = self._members[name]
        return bytes(data[:_HEAD]), bytes(data[-_TAIL:])

    def open(self, name: str) -> File:
        """Give a member, or raise CheckpointError."""
        member = str(PurePosixPath(name))
        if member not in self._members:
            found = [f"the archive holds {_some(self.names())}"]
            raise CheckpointError(f"no `{name}` in `{self._name}`", found=found)
        return File(f"{self._name}: {member}", self._members[member], self._budget)

    def leads_out(self, name: str, beside: str) -> bool:
        """Tell whether a file is a link out of here: an archive of links was refused."""
        return False


def leads_out(name: str) -> bool:
    """Tell whether the name of an archive's member would lead out of the folder it is unpacked into, on any system.

    >>> leads_out("model/../../x"), leads_out("/etc/passwd"), leads_out("model/data.pkl")
    (True, True, False)

    Nothing is ever unpacked here, but no program that writes weights has such a name.
    """
    path = PureWindowsPath(name)  # knows both kinds of slash
    return bool(path.root) or ".." in path.parts or "\0" in name


def _map(path: Path) -> memoryview:
    with open(path, "rb") as stream:
        if not os.fstat(stream.fileno()).st_size:  # which cannot be mapped, and is right for a file of empty tensors
            return _NOTHING
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _some(names: list[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{listed}{more}" if names else "nothing"
