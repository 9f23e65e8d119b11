"""DEFLATE into exactly the memory that was announced, and not a byte more."""

from __future__ import annotations

import zlib

import numpy as np

from resforward.checkpoints.files import File
from resforward.errors import CheckpointError

GZIP = 31  # zlib's `wbits`: a gzip header, and its checksum compared at the end
RAW = -15  # no header and no checksum, as in zip archives
_CHUNK = 1 << 20


def inflate(packed: memoryview, size: int, wbits: int, file: File, what: str, help: str) -> memoryview:
    """Unpack one stream that announces `size` bytes.

    >>> from resforward.checkpoints.files import Budget
    >>> packed = memoryview(zlib.compress(b"weights " * 9, wbits=RAW))
    >>> bytes(inflate(packed, 72, RAW, File("x.zip", packed, Budget()), "its stream", "unpack it yourself")[:8])
    b'weights '

    Args:
        what: what the stream is to its file, for messages: "its gzip stream".
        help: what helps a reader whose file is refused for its size.

    Raises:
        CheckpointError: it is damaged, or unpacks to more than it announces or the budget has left.
    """
    too_much = f"refused `{file.name}`: it unpacks to too much"
    try:
        file.budget.take_bytes(size, f"`{file.name}`")
    except CheckpointError as error:
        found = [f"{len(packed)} bytes would unpack to {size}"]
        raise CheckpointError(too_much, found=found, help=help) from error
    unpacked = np.empty(size, np.uint8)
    out = unpacked.data
    stream = zlib.decompressobj(wbits)
    done = at = 0
    waiting: bytes | memoryview = b""
    while not stream.eof:
        if not len(waiting):
            waiting = packed[at : at + _CHUNK]
            at += len(waiting)
            if not len(waiting):
                raise file.damaged(f"{what} is cut short after {done} of {size} unpacked bytes")
        try:
            piece = stream.decompress(waiting, _CHUNK)
        except zlib.error as error:
            raise file.damaged(f"{what} cannot be unpacked", f"{error}") from error
        waiting = stream.unconsumed_tail
        if len(piece) > size - done:
            raise CheckpointError(too_much, found=[f"{size} bytes are announced, {done + len(piece)} came"], help=help)
        out[done : done + len(piece)] = piece
        done += len(piece)
    if done != size:
        raise file.damaged(f"{what} unpacks to {done} bytes", f"{size} are announced")
    return out.toreadonly()
