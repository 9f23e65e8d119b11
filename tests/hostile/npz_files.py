"""NumPy archives: headers that are programs, objects that are pickles, sizes that lie."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import torch_writer as t
from fuzzing.seeds import tensors_of

from hostile.rows import Hostile, one

_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"


class _Reduced:
    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


def _objects() -> bytes:
    packed = io.BytesIO()
    np.savez(packed, w=np.array([_Reduced()], object))
    return packed.getvalue()


def _entry(
    header: str = _HEADER, numbers: bytes = bytes(12), version: bytes = b"\1\0", size: int | None = None
) -> bytes:
    length = struct.pack("<H", len(header) + 1 if size is None else size)
    return b"\x93NUMPY" + version + length + header.encode() + b"\n" + numbers


def _row(reason: str, header: str = _HEADER, **changed: bytes | int) -> Hostile:
    return one(reason, lambda: t.archive({"w.npy": _entry(header, **changed)}, wide=False))


def _shape(reason: str, shape: str, numbers: bytes = bytes(12)) -> Hostile:
    return _row(reason, _HEADER.replace("(3,)", shape), numbers=numbers)


def _values(value: float, kind: str) -> Hostile:
    """A whole network, one of whose kernels, which are standardised, has a value that no float32 has."""

    def make() -> bytes:
        tensors = {name: array.astype(kind) for name, array in tensors_of("bit").items()}
        next(array for array in tensors.values() if array.ndim == 4).flat[0] = value
        packed = io.BytesIO()
        np.savez(packed, **tensors)
        return packed.getvalue()

    return one("hold values that cannot be computed with", make)


_NO_HEADER = "has a header that NumPy does not write"

NPZ: dict[str, Hostile] = {
    "npz: objects": one("holds Python objects, a pickle, which can run code", _objects),
    "npz: objects, said in the header": _row("holds Python objects", _HEADER.replace("<f4", "|O")),
    "npz: header that is a program": _row(_NO_HEADER, "__import__('os').system('touch ran')"),
    "npz: shape that is a program": _shape(_NO_HEADER, "(__import__('os').system('touch ran'),)"),
    "npz: shape that is a power": _shape(_NO_HEADER, "(9**9**9,)"),
    "npz: 2^62 elements": _shape("has an impossible shape", f"({1 << 59},)"),
    "npz: 2^32 x 2^32 elements": _shape("has an impossible shape", f"({1 << 32}, {1 << 32})"),
    "npz: number of 5,000 digits": _shape(_NO_HEADER, f"({'9' * 5000},)"),
    "npz: shape of -1": _shape(_NO_HEADER, "(-1,)"),
    "npz: 100 dimensions": _shape("has 100 dimensions", f"({'1, ' * 100})"),
    "npz: more numbers than the shape takes": _row("has 16 bytes", numbers=bytes(16)),
    "npz: header of 64 kB": _row("claims a header of 65535 bytes", size=65535),
    "npz: version 9": _row("has version 9.0", version=b"\11\0"),
    "npz: 1,000 brackets": _row(_NO_HEADER, "[" * 1000 + "]" * 1000),
    "npz: weights of 1e300": _values(1e300, "f8"),
    "npz: infinite weights": _values(np.inf, "f4"),
    "npz: no array": one("is no NumPy array", lambda: t.archive({"w.npy": b"#!/bin/sh\ntouch ran\n"}, wide=False)),
    "npz: 300 MB of zeros, packed": one(
        "would unpack to 314572800", lambda: t.archive({"w.npy": t.deflated(bytes(300 << 20))}, wide=False)
    ),
    "npz: array outside of the archive": one(
        "leads out of the archive", lambda: t.archive({"w.npy": _entry(), "../outside/w.npy": _entry()}, wide=False)
    ),
    "npz: array there twice": one(
        "is there twice", lambda: t.archive([("w.npy", _entry()), ("w.npy", _entry())], wide=False)
    ),
}
