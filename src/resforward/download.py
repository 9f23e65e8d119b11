"""Published weights as files: resumed where a download broke off, compared, and whole or not there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, BinaryIO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from . import __version__
from .errors import CheckpointError, NetworkError, ResforwardError, TargetError, nearest
from .weights import WEIGHTS, Checksum
from .whole_file import rename_to_new

Progress = Callable[[int, int | None], object]
Tell = Callable[[str], object]

_PAUSES = (1, 2, 4)  # seconds before each further attempt
_TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 16
_AGAIN = {408, 429, 500, 502, 503, 504}  # answers that another attempt may change
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_CONTINUES = "what is there is kept, and the same call goes on from it"


@dataclass(frozen=True)
class Pulled:
    """What `pull` got.

    Args:
        path: of the file. url: where it is published. bytes: its size.
        sha256: of its bytes, as found.
        compared: with what published checksum, such as "md5"; None where there is none to compare with.
        there_already: nothing was downloaded.
    """

    path: str
    url: str
    bytes: int
    sha256: str
    compared: str | None
    there_already: bool


def pull(
    name: str,
    to: str | os.PathLike[str] = ".",
    *,
    progress: Progress = lambda done, total: None,
    tell: Tell = lambda line: None,
) -> Pulled:
    """Download published weights: TF-slim's, Keras' or torchvision's.

    >>> pull("resnet_v2_50").path  # doctest: +SKIP
    './resnet_v2_50_2017_04_14.tar.gz'
    >>> pull("torchvision_resnet50_v3")
    Traceback (most recent call last):
    resforward.errors.NetworkError: no weights are called torchvision_resnet50_v3
      - the nearest are `torchvision_resnet50_v2`, `torchvision_resnet50_v1`, `torchvision_resnet152_v2`
    help: `resforward pull --list` has every name

    A download that breaks off leaves a `.part` file, and goes on from it if the server still has the same file. The
    name itself is taken when all is there and is what was published, as far as that is known: of TF-slim's files, and
    of Keras' without top, no checksum is. Of several processes that pull the same, one downloads and the others wait.

    Args:
        name: a key of `resforward.weights.WEIGHTS`.
        to: the folder; it is made if need be.
        progress: is called with the bytes that are there, and those of the whole, or None while they are not known.
        tell: is called with a line of text when another process is waited for, or another attempt is made.

    Raises:
        NetworkError: no weights have that name.
        TargetError: another file has the name already.
        CheckpointError: what came is not what was published; it is not kept.
        ResforwardError: it cannot be downloaded or written, or the disk has no room for it.
    """
    if name not in WEIGHTS:
        close = nearest(name, WEIGHTS)
        raise NetworkError(
            f"no weights are called {name}",
            found=[close] if close else [],
            help="`resforward pull --list` has every name",
        )
    url, file, checksum = WEIGHTS[name]
    path = os.path.join(os.fspath(to), file)
    part = f"{path}.part"
    try:
        os.makedirs(to, exist_ok=True)
        if os.path.lexists(path) and not os.path.lexists(part):
            return _found(url, path, checksum, there_already=True)
        with _locked(part, tell) as stream:
            there_already = os.path.lexists(path)  # whoever held the lock has made it, if it is the right one
            if not there_already:
                _fill(url, stream, part, progress, tell)
                _compare(url, part, checksum)
                rename_to_new(part, path)
            pulled = _found(url, path, checksum, there_already)
            _discard(part)
            return pulled
    except FileExistsError as error:
        there = error.filename2 or error.filename
        what = ", and is no folder" if there == os.fspath(to) else ""
        raise TargetError(f"{there} is there already{what}", help="pull to another folder") from error
    except OSError as error:
        raise ResforwardError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}",
            help=_CONTINUES if error.errno in _FULL else "pull to another folder",
        ) from error


def _found(url: str, path: str, checksum: Checksum | None, there_already: bool) -> Pulled:
    """What is known of a file that is there.

    Raises:
        TargetError: it is another one.
    """
    if not os.path.isfile(path):
        raise TargetError(f"{path} is there already, and is no file", help="pull to another folder")
    sums = _sums(path, checksum)
    if checksum and not sums[checksum.kind].startswith(checksum.digits):
        raise TargetError(
            f"{path} is there already, and is another file", found=_sides(sums, checksum), help="pull to another folder"
        )
    compared = checksum.describe() if checksum else None
    return Pulled(path, url, os.path.getsize(path), sums["sha256"], compared, there_already)


def _compare(url: str, part: str, checksum: Checksum | None) -> None:
    """Refuse, and do not keep, what is not what was published."""
    if checksum and not (sums := _sums(part, checksum))[checksum.kind].startswith(checksum.digits):
        _discard(part)
        raise CheckpointError(
            f"what came from {url} is not what was published, and is not kept",
            found=_sides(sums, checksum),
            help="pull it again; if that does not help, the server has another file, or something between changes it",
        )


def _sides(sums: dict[str, str], checksum: Checksum) -> list[str]:
    return [f"found {checksum.kind} {sums[checksum.kind]}", f"published {checksum.digits} ({checksum.describe()})"]


def _sums(path: str, checksum: Checksum | None) -> dict[str, str]:
    """The sha256 of a file, and the sum that is published."""
    sums = {}
    for kind in {"sha256", checksum.kind if checksum else "sha256"}:
        with open(path, "rb") as stream:
            sums[kind] = hashlib.file_digest(stream, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
    return sums


@contextmanager
def _locked(part: str, tell: Tell) -> Iterator[BinaryIO]:
    """Open the unfinished file, alone of all processes; the lock goes with the process, whatever ends it."""
    while True:
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with open(file, "r+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"another process is pulling {part.removesuffix('.part')}: waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            if _is_at(file, part):
                try:
                    yield stream
                finally:
                    if not os.fstat(file).st_size and _is_at(file, part):
                        _discard(part)  # nothing came
                return
        # it was finished or discarded while this process waited


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


class _Note(NamedTuple):
    """What the bytes in a `.part` file are the beginning of; kept beside it, where that can be asked for again."""

    url: str
    etag: str
    size: int | None


def _note_path(part: str) -> str:
    return f"{part}.json"


def _read_note(part: str, url: str) -> _Note | None:
    try:
        with open(_note_path(part), encoding="utf-8") as stream:
            told = json.load(stream)
        note = _Note(**told)
    except (OSError, ValueError, TypeError):  # none, or another program's
        return None
    fits = note.url == url and isinstance(note.etag, str) and isinstance(note.size, int | None)
    return note if fits else None


def _restart(stream: BinaryIO, part: str, note: _Note | None = None) -> None:
    """Empty the unfinished file first, so that a note is never of other bytes, whenever the process ends."""
    stream.seek(0)
    stream.truncate()
    if note is None:
        with suppress(FileNotFoundError):
            os.unlink(_note_path(part))
    else:
        with open(_note_path(part), "w", encoding="utf-8") as file:
            json.dump(note._asdict(), file)


def _discard(part: str) -> None:
    for path in (part, _note_path(part)):
        with suppress(FileNotFoundError):
            os.unlink(path)


class _BrokenError(Exception):
    """An attempt that ended too early, and that another may complete."""


def _fill(url: str, stream: BinaryIO, part: str, progress: Progress, tell: Tell) -> None:
    """Download until all is there, and on the disk."""
    for pause in (*_PAUSES, None):
        try:
            _attempt(url, stream, part, progress)
            break
        except _BrokenError as error:
            if pause is None:
                raise ResforwardError(
                    f"cannot download {url}",
                    found=[str(error), f"{1 + len(_PAUSES)} attempts"],
                    help=_CONTINUES if os.path.getsize(part) else "look at the connection, and try again",
                ) from error
            tell(f"{error}: trying again in {pause} s")
            time.sleep(pause)
    stream.flush()
    os.fsync(stream)


def _attempt(url: str, stream: BinaryIO, part: str, progress: Progress) -> None:
    """Take up the unfinished file where it ends, if it is the beginning of what the server has; else begin anew."""
    note = _read_note(part, url)
    done = stream.seek(0, os.SEEK_END) if note else 0
    if note and done == note.size:  # only the name was missing
        return
    asked = {"Range": f"bytes={done}-", "If-Range": note.etag} if note and done else {}
    with _answer(url, asked, stream, part) as response:
        etag = response.headers.get("ETag", "")
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            size = int(found[2]) if found else None
            if not (note and found and int(found[1]) == done and etag == note.etag and note.size in (None, size)):
                _restart(stream, part)
                raise _BrokenError("the file on the server has changed")
        else:
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
            done = 0
            strong = etag and not etag.startswith("W/")  # a weak one may stand for other bytes
            _restart(stream, part, _Note(url, etag, size) if strong else None)
        _check_room(part, size, done)
        progress(done, size)
        while block := _block(response, done, size):
            stream.write(block)
            stream.flush()
            done += len(block)
            progress(done, size)
        if size is None and not response.chunked:  # then the end of the connection would be that of the file
            _restart(stream, part)
            raise ResforwardError(f"cannot download {url}: the server does not say how long it is")
        if size is not None and done != size:
            raise _BrokenError(_dropped(done, size))


def _block(response: HTTPResponse, done: int, size: int | None) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (HTTPException, OSError) as error:
        raise _BrokenError(_dropped(done, size)) from error


def _dropped(done: int, size: int | None) -> str:
    return f"the connection dropped after {done:,} of {f'{size:,}' if size else 'an unknown number of'} bytes"


@contextmanager
def _answer(url: str, asked: dict[str, str], stream: BinaryIO, part: str) -> Iterator[HTTPResponse]:
    """Ask for a file; what another attempt can change is a _BrokenError."""
    request = Request(url, headers={"User-Agent": f"resforward/{__version__}", "Accept-Encoding": "identity", **asked})
    try:
        response = build_opener(_StaySecure()).open(request, timeout=_TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416:  # there is nothing from there on, so it is another file
                _restart(stream, part)
                raise _BrokenError("the file on the server has changed") from error
            said = f"the server answers {error.code} {error.reason}"
            if error.code in _AGAIN:
                raise _BrokenError(said) from error
            raise ResforwardError(
                f"cannot download {url}", found=[said], help="it may have moved; download it with another program"
            ) from error
    except (URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ResforwardError(
                f"cannot download {url}", found=[f"its certificate is not valid: {reason.verify_message}"]
            ) from error
        raise _BrokenError((getattr(reason, "strerror", None) or repr(reason)).lower()) from error
    with response:
        yield response


class _StaySecure(HTTPRedirectHandler):
    """Follows no redirection from https to anything else."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_room(part: str, size: int | None, done: int) -> None:
    free = shutil.disk_usage(os.path.dirname(part) or os.curdir).free
    if size is not None and size - done > free:
        raise ResforwardError(
            f"no room for {part.removesuffix('.part')}",
            found=[f"{(size - done) / 1e6:,.1f} MB are to come, and {free / 1e6:,.1f} MB are free"],
            help="make room, or pull to another folder",
        )
