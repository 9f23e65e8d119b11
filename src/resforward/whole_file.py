"""Files that are whole or not there: one takes its name when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets


def put(data: bytes, path: str, overwrite: bool) -> None:
    """Write a file that takes its name when it is complete.

    Raises:
        FileExistsError: something has that name, and is not to be replaced.
    """
    folder = os.path.dirname(path) or os.curdir
    part = os.path.join(folder, f".{secrets.token_hex(8)}.part")
    try:
        file, nameless = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), True  # gone when the process is
    except OSError:  # a file system that has no such files, or the reason why there can be none at all
        file, nameless = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), False
    try:
        with open(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(file)
            if nameless:
                name = part if overwrite else path
                os.link(f"/proc/self/fd/{file}", name, src_dir_fd=file)  # Python follows that link only with a dir_fd
        if overwrite:
            os.replace(part, path)
        elif not nameless:
            rename_to_new(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def rename_to_new(part: str, path: str) -> None:
    """Rename a file to a name that nothing has; `os.rename` would replace what has it."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: for an instant, an empty file holds the name
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(part, path)
        except BaseException:
            os.unlink(path)
            raise
    else:
        os.unlink(part)
