"""PyTorch's first files, of 0.1: a tar archive of four members, which may also lie unpacked in a folder.

    storages   how many | for each: (key, device, class) and its elements | views: (key, key of the whole, offset, size)
    tensors    how many | for each: (key, key of its storage, class), rank in 8 bytes, shape, strides, offset
    pickle     the object: tensors and storages by their keys
    sys_info   facts of the writer's machine, which nobody needs: numbers are little-endian

(pytorch: torch/serialization.py, `legacy_load`.) Tuples and numbers of elements are pickled, all else is binary. The
format has no checksum.
"""

from __future__ import annotations

import re
import struct
from pathlib import PurePosixPath
from typing import Any

from resforward.checkpoints import pickles
from resforward.checkpoints.arrays import MAX_RANK, Contents
from resforward.checkpoints.files import File, Folder
from resforward.checkpoints.torch_stream import elements
from resforward.checkpoints.torch_values import NAMES, TENSOR_CLASSES, Kind, Storage, Tensor
from resforward.checkpoints.torch_weights import weights

NAME = "PyTorch tar archive"
# `storages` is what a folder of the four is known by: a small number, then a tuple with the class of a storage.
_BEGINNING = re.compile(rb"\x80\x02(?:K.|M..|J....)\.\x80\x02.{1,200}?ctorch\n\w{1,20}Storage\n", re.DOTALL)
_NAMES = NAMES | TENSOR_CLASSES


def begins(head: bytes) -> bool:
    r"""Tell from a file's first bytes whether it is the member `storages` of such an archive.

    >>> begins(b"\x80\x02K\x01.\x80\x02(X\x01\0\0\x007q\0X\x03\0\0\0cpuq\x01ctorch\nFloatStorage\nq\x02tq\x03.")
    True
    """
    return _BEGINNING.match(head) is not None


def recognises(file: File) -> bool:
    """Tell whether a file is the member `storages`."""
    return begins(bytes(file.data[:512]))


def read(folder: Folder, name: str) -> Contents:
    """Read the state dict of a PyTorch file of 0.1, by its member `storages`.

    >>> read(DiskFolder(Path("resnet50-19c8e357")), "storages").tensors["fc.bias"].shape  # doctest: +SKIP
    (1000,)

    Raises:
        CheckpointError: the file is damaged, holds code, or holds no state dict.
    """
    numbers = folder.open(name)
    storages, stored = _storages(numbers)
    beside = PurePosixPath(name).parent
    tensors = _tensors(folder.open(str(beside / "tensors")), storages)
    file = folder.open(str(beside / "pickle"))

    def find(id: Any) -> Tensor | Storage:
        key = str(id) if isinstance(id, str | int) else ""
        if key not in tensors and key not in storages:
            raise ValueError("its persistent id is neither of a tensor nor of a storage")
        return tensors[key] if key in tensors else storages[key]

    value, end = pickles.load(file, file.data, 0, NAMES, find)
    if end != len(file.data):
        raise file.damaged(f"its pickle ends at byte {end} of {len(file.data)}")
    return weights(value, lambda storage: stored[storage.key], numbers)


def _storages(file: File) -> tuple[dict[str, Storage], dict[str, memoryview]]:
    """Read `storages`: what is known of each by its key, views among them, and their bytes."""
    storages: dict[str, Storage] = {}
    stored: dict[str, memoryview] = {}
    count, at = _next(file, 0)
    for _ in range(_count(count, file)):
        entry, at = _next(file, at)
        match entry:
            case (str() | int() as key, str(), Kind() as kind) if str(key) not in stored:
                where = f"storage `{str(key)[:80]}`"
                data, at = elements(file, at, None, kind.size, where)
                length = len(data) // kind.size
                stored[str(key)] = data
                storages[str(key)] = Storage(str(key), kind, length, 0, length)
            case _:
                raise file.damaged("a storage is not described as PyTorch does, or twice", pickles.describe(entry))
    views, at = _next(file, at)
    for view in views if isinstance(views, list) else [views]:
        match view:
            case (str() | int() as key, str() | int() as whole, int(start), int(size)) if (
                str(whole) in stored and str(key) not in storages and 0 <= start <= start + size
            ):
                root = storages[str(whole)]
                if start + size > root.count:
                    raise file.damaged(f"a view of storage `{str(whole)[:80]}` is outside of it")
                storages[str(key)] = Storage(root.key, root.kind, root.count, start, size)
            case _:
                raise file.damaged("a view of a storage is not described as PyTorch does", pickles.describe(view))
    _check_end(file, at)
    return storages, stored


def _tensors(file: File, storages: dict[str, Storage]) -> dict[str, Tensor]:
    """Read `tensors`: what is known of each by its key."""
    tensors: dict[str, Tensor] = {}
    count, at = _next(file, 0)
    for _ in range(_count(count, file)):
        entry, at = _next(file, at)
        match entry:
            case (str() | int() as key, str() | int() as storage, Kind()) if (
                str(storage) in storages and str(key) not in tensors
            ):
                where = f"tensor `{str(key)[:80]}`"
                rank = int.from_bytes(file.data[at : at + 4], "little")  # the other four bytes were never set
                end = at + 8 + rank * 16 + 8
                if rank > MAX_RANK or end > len(file.data):
                    raise file.damaged(f"{where} has {rank} dimensions", f"at most {MAX_RANK} are read")
                *numbers, offset = struct.unpack_from(f"<{2 * rank + 1}q", file.data, at + 8)
                window = storages[str(storage)]
                shape, strides = tuple(numbers[:rank]), tuple(numbers[rank:])
                tensors[str(key)] = Tensor(window, window.kind, offset, shape, strides)
                at = end
            case _:
                raise file.damaged("a tensor is not described as PyTorch does, or twice", pickles.describe(entry))
    _check_end(file, at)
    return tensors


def _next(file: File, at: int) -> tuple[Any, int]:
    return pickles.load(file, file.data, at, _NAMES, _no_id)


def _count(value: Any, file: File) -> int:
    if not isinstance(value, int):
        raise file.damaged(f"it begins with {pickles.describe(value)}, not with a number")
    return value


def _check_end(file: File, at: int) -> None:
    if at != len(file.data):
        raise file.damaged(f"{len(file.data) - at} bytes follow what it lists")


def _no_id(id: Any) -> Any:
    raise ValueError("a persistent id outside of the object")
