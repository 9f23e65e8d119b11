"""PyTorch's files since 1.6: a zip archive of a pickle and of the storages that it names.

    <root>/data.pkl     the object: tensors by the keys of their storages
    <root>/data/<key>   the bytes of one storage, stored as they are
    <root>/byteorder    "little" or "big"; little where it is missing, as in files before 2.1

(pytorch: torch/serialization.py, `_save`.) Every entry has a CRC-32, unless its writer was told to leave them out.
"""

from __future__ import annotations

from resforward.checkpoints import pickles, zips
from resforward.checkpoints.arrays import Contents
from resforward.checkpoints.files import File, Folder
from resforward.checkpoints.torch_values import NAMES, Storage, storage_of
from resforward.checkpoints.torch_weights import weights
from resforward.errors import CheckpointError

NAME = "PyTorch zip archive"
_PICKLE = "data.pkl"
_PROGRAM = "constants.pkl"  # what TorchScript keeps beside the pickle, and nothing else does
_BYTE_ORDERS = {b"little": False, b"big": True}


def begins(head: bytes) -> bool:
    """Tell from a file's first bytes whether PyTorch wrote it: the pickle is the first entry.

    >>> begins(zips.MAGIC + bytes(26) + b"resnet18/data.pkl")
    True
    """
    return head.startswith(zips.MAGIC) and f"/{_PICKLE}".encode() in head


def recognises(file: File) -> bool:
    """Tell whether a file is a zip archive with a pickle as PyTorch names it; one that is damaged is an error."""
    if bytes(file.data[: len(zips.MAGIC)]) != zips.MAGIC:
        return False
    return any(name.endswith((f"/{_PICKLE}", f"/{_PROGRAM}")) for name in zips.entries(file))


def read(folder: Folder, name: str) -> Contents:
    """Read the state dict of a PyTorch file.

    >>> read(DiskFolder(Path("models")), "resnet18-f37072fd.pth").tensors["fc.bias"].shape  # doctest: +SKIP
    (1000,)

    Raises:
        CheckpointError: the file is damaged, holds code, or holds no state dict.
    """
    file = folder.open(name)
    entries = zips.entries(file)
    root = _root(entries, file)

    def read_entry(path: str) -> memoryview:
        if root + path not in entries:
            raise file.damaged(f"it lacks the entry `{(root + path)[:80]}`")
        return zips.contents(entries[root + path], file)

    pickle = read_entry(_PICKLE)
    value, end = pickles.load(file, pickle, 0, NAMES, storage_of)
    if end != len(pickle):
        raise file.damaged(f"its pickle ends at byte {end} of {len(pickle)}")
    order = bytes(read_entry("byteorder")[:8]) if f"{root}byteorder" in entries else b"little"
    if order not in _BYTE_ORDERS:
        raise file.damaged("its byte order is neither little nor big", f"{order!r}")
    known: dict[str, memoryview] = {}

    def bytes_of(storage: Storage) -> memoryview:
        if storage.key not in known:
            known[storage.key] = read_entry(f"data/{storage.key}")
        data = known[storage.key]
        if len(data) != storage.count * storage.kind.size:
            raise file.damaged(
                f"storage `{storage.key[:80]}` has {len(data)} bytes",
                f"{storage.count} elements of {storage.kind.name} take {storage.count * storage.kind.size}",
            )
        return data

    return weights(value, bytes_of, file, swapped=_BYTE_ORDERS[order])


def _root(entries: dict[str, zips.Entry], file: File) -> str:
    """Return what every entry's name begins with, or raise CheckpointError for a program."""
    if any(name.endswith(f"/{_PROGRAM}") for name in entries):
        raise CheckpointError(
            f"`{file.name}` is a TorchScript archive, which is a program and is never run",
            help="save its weights alone, in PyTorch: torch.save(torch.jit.load(path).state_dict(), other_path)",
        )
    roots = [name.removesuffix(_PICKLE) for name in entries if name.endswith(f"/{_PICKLE}")]
    if len(roots) > 1:
        raise file.damaged(f"it has {len(roots)} pickles", *(f"`{root[:80]}{_PICKLE}`" for root in roots))
    return roots[0]
