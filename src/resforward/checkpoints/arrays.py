"""What a reader hands over: read-only arrays as they are stored, and what was skipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resforward.checkpoints.files import File

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resforward.checkpoints.onnx import OnnxGraph

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # NumPy has no bfloat16, so a reader marks it by this field name
MAX_RANK = 8
_MAX_BYTES = 1 << 47  # what a 64-bit process can address


class Contents(NamedTuple):
    """The tensors of one checkpoint under the file's own names, names of what else it holds, metadata, a graph."""

    tensors: dict[str, Array]
    skipped: dict[str, str]
    metadata: Mapping[str, str] = MappingProxyType({})
    graph: OnnxGraph | None = None


def byte_size(shape: tuple[int, ...], dtype: np.dtype[Any], file: File, where: str) -> int:
    """Return how many bytes a tensor takes, or raise CheckpointError for a shape that cannot be.

    >>> from resforward.checkpoints.files import Budget
    >>> byte_size((3, 3, 64, 64), np.dtype("<f4"), File("x.ckpt", memoryview(b""), Budget()), "`conv1/weights`")
    147456
    """
    if len(shape) > MAX_RANK:
        raise file.damaged(f"{where} has {len(shape)} dimensions", f"at most {MAX_RANK} are read")
    if any(size < 0 for size in shape):
        raise file.damaged(f"{where} has a negative dimension: {shape}")
    # Zeros do not excuse the others: NumPy refuses (2**62, 0) too.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MAX_BYTES:
        raise file.damaged(f"{where} has an impossible shape: {shape}")
    return math.prod(shape) * dtype.itemsize


def view(data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], file: File, where: str) -> Array:
    """Show bytes as a read-only tensor without copying; it may be unaligned, which NumPy reads all the same.

    >>> from resforward.checkpoints.files import Budget
    >>> data = memoryview(bytes([0, 0, 128, 63]))
    >>> view(data, (1, 1), np.dtype("<f4"), File("x.ckpt", data, Budget()), "`w`")
    array([[1.]], dtype=float32)

    Raises:
        CheckpointError: the shape cannot be, does not take exactly these bytes, or a bool is neither 0 nor 1.
    """
    wanted = byte_size(shape, dtype, file, where)
    if wanted != len(data):
        raise file.damaged(f"{where} has {len(data)} bytes", f"shape {shape} of {name_of(dtype)} takes {wanted}")
    if not wanted:
        return frozen(np.empty(shape, dtype))
    if dtype == np.bool_ and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise file.damaged(f"{where} holds a bool that is neither 0 nor 1")
    return frozen(np.frombuffer(data, dtype).reshape(shape))


def frozen(array: Array) -> Array:
    """Make an array read-only and return it."""
    array.flags.writeable = False
    return array


def name_of(dtype: np.dtype[Any]) -> str:
    """Name a stored dtype.

    >>> name_of(BFLOAT16), name_of(np.dtype(">f4"))
    ('bfloat16', 'float32')
    """
    return dtype.names[0] if dtype.names else dtype.name


def as_numpy(stored: Array) -> Array:
    """Return a stored tensor in this machine's own dtypes: itself, unless it is bfloat16 or of the other byte order.

    >>> as_numpy(np.array([(0x3F80,), (0xC000,)], BFLOAT16))
    array([ 1., -2.], dtype=float32)
    """
    if stored.dtype.names:
        bits = stored["bfloat16"].astype(np.uint32)
        bits <<= 16  # a bfloat16 is the upper half of a float32
        return frozen(bits.view(np.float32))
    if not stored.dtype.isnative:
        return frozen(stored.astype(stored.dtype.newbyteorder("=")))
    return stored
