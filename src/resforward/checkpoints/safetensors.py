"""safetensors files: the library checks them, behind a guard that looks first; tensors are views of the mapped file.

    8 bytes little-endian: size of the header | header, JSON: name -> dtype, shape, data_offsets | the tensors' bytes

(huggingface/safetensors: README.md, "Format".) The format has no checksum.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from resforward.checkpoints.arrays import BFLOAT16, Contents, view
from resforward.checkpoints.files import File, Folder, MemoryFolder
from resforward.errors import CheckpointError

NAME = "safetensors"
_MAX_HEADER = 8 << 20
_MAX_TENSORS = 8192
_MAX_PIECES = 8 * _MAX_TENSORS  # JSON objects or lists, so that the header's own values stay small in memory
_NUMPY: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def recognises(file: File) -> bool:
    """Tell whether a file begins with the size of a header and an opening brace; by its name, if that is no size."""
    size = int.from_bytes(file.data[:8], "little")
    return bytes(file.data[8:9]) == b"{" and (size < 1 << 40 or file.name.endswith(".safetensors"))


def read(folder: Folder, name: str) -> Contents:
    """Read a safetensors file.

    >>> read(DiskFolder(Path("models")), "fashion.safetensors").tensors["logits/biases"].shape  # doctest: +SKIP
    (10,)

    Raises:
        CheckpointError: the file is damaged, or larger in header or number of tensors than any network.
    """
    file = folder.open(name)
    if isinstance(folder, MemoryFolder):
        raise CheckpointError(f"`{file.name}` is inside an archive", help="unpack it and pass the file itself")
    size = int.from_bytes(file.data[:8], "little")
    header, metadata = _header(file, size)
    try:
        with safe_open(file.name, framework="numpy"):
            pass  # opening checks dtypes, sizes, holes and overlaps against the file
    except (SafetensorError, OSError) as error:
        raise file.damaged("the safetensors library refuses it", f"{error}") from error
    contents = Contents({}, {}, metadata)
    for tensor, entry in header.items():
        where = f"tensor `{tensor}`"
        if entry["dtype"] not in _NUMPY:
            contents.skipped[tensor] = entry["dtype"]
            continue
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        contents.tensors[tensor] = view(file.data[start:end], shape, _NUMPY[entry["dtype"]], file, where)
    return contents


def _header(file: File, size: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Parse the header within limits; raise CheckpointError for what the library would accept at great cost."""
    if size > min(_MAX_HEADER, len(file.data) - 8):
        raise file.damaged(
            f"its header claims {size} bytes", f"{len(file.data) - 8} follow; at most {_MAX_HEADER} are read"
        )
    raw = bytes(file.data[8 : 8 + size])
    if max(raw.count(b"{"), raw.count(b"["), raw.count(b",") // 8) > _MAX_PIECES:
        raise file.damaged("its header is in too many pieces", f"at most {_MAX_TENSORS} tensors are read")
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or a name twice
        raise file.damaged("its header cannot be read", f"{error}") from error
    if not isinstance(header, dict):
        raise file.damaged("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise file.damaged("its metadata is not of texts")
    if len(header) > _MAX_TENSORS:
        raise file.damaged(f"its header lists {len(header)} tensors", f"at most {_MAX_TENSORS} are read")
    return header, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` is there twice")
    return found
