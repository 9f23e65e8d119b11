"""PyTorch's files before 1.6: pickles one after another, then the storages.

    pickles: magic number | protocol version | facts of the writer's machine | the object | keys of the storages
    for every key, in this order: number of elements, 8 bytes | the elements, little-endian on every machine

(pytorch: torch/serialization.py, `_legacy_save`; torch/csrc/serialization.cpp.) The format has no checksum.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from resforward.checkpoints import pickles
from resforward.checkpoints.arrays import Contents
from resforward.checkpoints.files import File, Folder
from resforward.checkpoints.torch_values import NAMES, Storage, storage_of
from resforward.checkpoints.torch_weights import weights

NAME = "PyTorch stream"
_PROTOCOL = 1001
# The magic number 0x1950A86A20F9469CFC6C, pickled; from protocol 4 on there is a frame around it.
_BEGINNING = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)


def begins(head: bytes) -> bool:
    r"""Tell from a file's first bytes whether it is such a stream.

    >>> begins(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    True
    """
    return _BEGINNING.match(head) is not None


def recognises(file: File) -> bool:
    """Tell whether a file begins with the pickled magic number."""
    return begins(bytes(file.data[:32]))


def read(folder: Folder, name: str) -> Contents:
    """Read the state dict of a PyTorch file of before 1.6.

    >>> read(DiskFolder(Path("models")), "resnet18-5c106cde.pth").tensors["fc.bias"].shape  # doctest: +SKIP
    (1000,)

    Raises:
        CheckpointError: the file is damaged, holds code, or holds no state dict.
    """
    file = folder.open(name)
    described: dict[str, Storage] = {}

    def storage_once(id: Any) -> Storage:
        storage = storage_of(id)
        known = described.setdefault(storage.key, storage)
        if (storage.kind, storage.count) != (known.kind, known.count):
            raise ValueError(f"storage `{storage.key[:80]}` is described in two ways")
        return storage

    _, at = pickles.load(file, file.data, 0, {}, _no_storage)
    version, at = pickles.load(file, file.data, at, {}, _no_storage)
    if version != _PROTOCOL:
        found = version if isinstance(version, int) else pickles.describe(version)
        raise file.damaged(f"its protocol version is {found}", f"{_PROTOCOL} is the only one there was")
    _, at = pickles.load(file, file.data, at, {}, _no_storage)
    value, at = pickles.load(file, file.data, at, NAMES, storage_once)
    keys, at = pickles.load(file, file.data, at, {}, _no_storage)
    if not isinstance(keys, list):
        raise file.damaged(f"its keys of storages are {pickles.describe(keys)}")
    stored: dict[str, memoryview] = {}
    for key in keys:
        if not isinstance(key, str) or key not in described or key in stored:
            shown = f"`{key[:80]}`" if isinstance(key, str) else pickles.describe(key)
            raise file.damaged(f"its list of storages has {shown}, which no tensor names, or twice")
        storage = described[key]
        stored[key], at = elements(file, at, storage.count, storage.kind.size, f"storage `{key[:80]}`")
    if at != len(file.data):
        raise file.damaged(f"{len(file.data) - at} bytes follow its last storage")

    def bytes_of(storage: Storage) -> memoryview:
        if storage.key not in stored:
            raise file.damaged(f"storage `{storage.key[:80]}` is not there", f"{len(stored)} others are")
        return stored[storage.key]

    return weights(value, bytes_of, file)


def elements(file: File, at: int, count: int | None, size: int, where: str) -> tuple[memoryview, int]:
    """Return the bytes of a storage that begins with its number of elements, and where it ends.

    >>> from resforward.checkpoints.files import Budget
    >>> file = File("x.pth", memoryview(bytes([2, 0, 0, 0, 0, 0, 0, 0, 7, 8])), Budget())
    >>> bytes(elements(file, 0, 2, 1, "storage `0`")[0])
    b'\\x07\\x08'

    Args:
        count: how many elements there must be, if that is known.
        size: bytes of one element.

    Raises:
        CheckpointError: there are more elements or fewer, or they do not fit into the file.
    """
    left = len(file.data) - at - 8
    found = int.from_bytes(file.data[at : at + 8], "little", signed=True)
    if left < 0 or not 0 <= found * size <= left:
        raise file.damaged(f"{where} claims {found} elements of {size} bytes", f"{max(0, left)} bytes are left")
    if count not in (None, found):
        raise file.damaged(f"{where} has {found} elements", f"its description says {count}")
    return file.data[at + 8 : at + 8 + found * size], at + 8 + found * size


def _no_storage(id: Any) -> NoReturn:
    raise ValueError("a storage outside of the object")
