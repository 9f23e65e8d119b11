"""What a reader must not do while it reads, seen by Python's audit events: write, start, connect, or read elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import resforward

_STARTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
)
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown")
_CHANGES += ("os.truncate", "os.utime", "os.chdir", "os.putenv", "shutil.", "tempfile.")
_OTHERS = ("socket.", "urllib.", "ctypes.", "pickle.find_class", "os.kill", "signal.pthread_kill", "sys.addaudithook")
_FORBIDDEN = _STARTS + _CHANGES + _OTHERS
# Python's own files, which modules are imported from late; this package's labels; what is asked of this machine.
_OURS = tuple(
    os.path.realpath(path) + os.sep
    for path in (
        Path(resforward.__file__).parent,
        sys.base_prefix,
        sys.prefix,
        *filter(None, sys.path),
        "/proc",
        "/sys",
    )
    if os.path.isdir(path) and not str(path).startswith(os.path.dirname(os.path.dirname(__file__)))
)


class Forbidden(BaseException):
    """What was done; not an Exception, so that no reader can catch it."""


_folder: str | None = None
_seen: list[str] = []


def _audit(event: str, arguments: tuple) -> None:
    if _folder is None:
        return
    if event == "open":
        _check_open(*arguments)
    elif event.startswith(_FORBIDDEN):
        _refuse(f"{event} {arguments!r:.200}")


def _check_open(path: object, mode: str | None, flags: int) -> None:
    if isinstance(path, int) or path is None:
        return
    place = os.path.realpath(os.fsdecode(path))
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC):
        _refuse(f"opened {place} to write")
    elif not (place + os.sep).startswith(_folder) and not place.startswith(_OURS):
        _refuse(f"read {place}")


def _refuse(what: str) -> None:
    _seen.append(what)
    raise Forbidden(what)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Raise Forbidden for whatever a reader does beside reading files of a folder.

    An audit hook cannot be taken back; it does nothing outside of this block.
    """
    global _folder
    if not _installed:
        sys.addaudithook(_audit)
        _installed.append(True)
    _folder = os.path.realpath(folder) + os.sep
    _seen.clear()
    try:
        yield
    finally:
        _folder = None
        if _seen:  # something may have caught it, and gone on to another end
            raise Forbidden(_seen[0])


_installed: list[bool] = []
