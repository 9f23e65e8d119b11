"""What the names in PyTorch's pickles stand for: tensors and storages as descriptions, everything else as nothing.

(pytorch: torch/_utils.py, torch/serialization.py, torch/_tensor.py.) A tensor is a window into a storage:

    _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks, metadata)    counted in elements
    _rebuild_tensor_v3(an untyped storage, the same, dtype, metadata)                             dtypes since 2.1
    storage: a persistent id ("storage", its class, key, device, elements, view), bytes elsewhere in the file
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resforward.checkpoints.arrays import BFLOAT16, MAX_RANK
from resforward.checkpoints.pickles import Made, Maker, Pairs, Unread, describe


@dataclass(frozen=True, slots=True)
class Kind:
    """A dtype: PyTorch's name, bytes of one element, and NumPy's dtype where there is one that we read."""

    name: str
    size: int
    dtype: np.dtype[Any] | None = None


@dataclass(frozen=True, slots=True)
class Storage(Made):
    """The place of some numbers: elements `start` to `start + size` of the `count` that are stored under `key`."""

    key: str
    kind: Kind
    count: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Tensor(Made):
    """A window into a storage, counted in elements; nothing is checked against the storage yet."""

    storage: Storage
    kind: Kind
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# Classes of storages: whose name, which dtype. Complex and quantised numbers are named, not read.
_STORAGES: dict[str, Kind] = {
    "Double": Kind("float64", 8, np.dtype("<f8")),
    "Float": Kind("float32", 4, np.dtype("<f4")),
    "Half": Kind("float16", 2, np.dtype("<f2")),
    "BFloat16": Kind("bfloat16", 2, BFLOAT16),
    "Long": Kind("int64", 8, np.dtype("<i8")),
    "Int": Kind("int32", 4, np.dtype("<i4")),
    "Short": Kind("int16", 2, np.dtype("<i2")),
    "Char": Kind("int8", 1, np.dtype("i1")),
    "Byte": Kind("uint8", 1, np.dtype("u1")),
    "Bool": Kind("bool", 1, np.dtype("?")),
    "ComplexFloat": Kind("complex64", 8),
    "ComplexDouble": Kind("complex128", 16),
    "QInt8": Kind("qint8", 1),
    "QUInt8": Kind("quint8", 1),
    "QInt32": Kind("qint32", 4),
    "QUInt4x2": Kind("quint4x2", 1),
    "QUInt2x4": Kind("quint2x4", 1),
}
_UNTYPED = Kind("untyped", 1)
_NEWER = [
    Kind("uint16", 2, np.dtype("<u2")),
    Kind("uint32", 4, np.dtype("<u4")),
    Kind("uint64", 8, np.dtype("<u8")),
    Kind("float8_e4m3fn", 1),
    Kind("float8_e5m2", 1),
    Kind("float8_e4m3fnuz", 1),
    Kind("float8_e5m2fnuz", 1),
    Kind("float8_e8m0fnu", 1),
    Kind("float4_e2m1fn_x2", 1),
    Kind("complex32", 4),
]


def storage_of(id: Any) -> Storage:
    """Read the persistent id of a storage.

    >>> storage_of(("storage", NAMES["torch.FloatStorage"], "0", "cuda:0", 64)).kind.name
    'float32'

    Raises:
        ValueError: it is another kind of id.
    """
    match id:
        case ("storage", Kind() as kind, str(key), str(), int(count), *view) if count >= 0 and len(view) <= 1:
            match view:
                case [] | [None]:
                    return Storage(key, kind, count, 0, count)
                case [(str(), int(start), int(size))] if 0 <= start <= start + size <= count:
                    return Storage(key, kind, count, start, size)
    raise ValueError("its persistent id is none of a storage")


def _tensor(kind_at: int | None, metadata_at: int) -> Maker:
    """Return what stands for one of the functions that rebuild a tensor, by where it takes what."""

    def make(arguments: tuple[Any, ...]) -> Made:
        if not 4 <= len(arguments) <= metadata_at + 1:
            raise ValueError(f"a tensor of {len(arguments)} arguments")
        storage, offset, shape, strides = arguments[:4]
        if not (isinstance(storage, Storage) and type(offset) is int and _is_shape(shape) and _is_shape(strides)):
            raise ValueError(f"a tensor of {', '.join(map(describe, arguments[:4]))}")
        if len(shape) != len(strides):
            raise ValueError(f"a tensor of {len(shape)} dimensions and {len(strides)} strides")
        kind = storage.kind if kind_at is None else arguments[kind_at] if kind_at < len(arguments) else None
        if not isinstance(kind, Kind):
            raise ValueError(f"a tensor whose dtype is {describe(kind)}")
        metadata = arguments[metadata_at] if metadata_at < len(arguments) else None
        if isinstance(metadata, Pairs) and metadata.items:  # {"conj": True} or {"neg": True}
            return Unread(f"{kind.name}, negated or conjugated")
        return Tensor(storage, kind, offset, shape, strides)

    return Maker(make)


def _is_shape(value: Any) -> bool:
    # The rank first: the same long tuple could be passed a hundred thousand times.
    return type(value) is tuple and len(value) <= MAX_RANK and all(type(size) is int for size in value)


def _first(arguments: tuple[Any, ...]) -> Made:
    """A parameter, or a tensor that was moved to a device, is the tensor it is made of."""
    if not arguments or not isinstance(arguments[0], (Tensor, Unread)):
        raise ValueError(f"a tensor made of {', '.join(map(describe, arguments[:1])) or 'nothing'}")
    return arguments[0]


def _of_type(arguments: tuple[Any, ...]) -> Any:
    """A tensor with attributes: which function, for which class, its arguments, and the attributes."""
    match arguments:
        case (Maker() as maker, Maker() | Unread(), tuple(inner), _) if maker in _REBUILD.values():
            return maker.make(inner)
    raise ValueError("a tensor made by another function than those that make tensors")


def _size(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case () | (tuple(),):
            return arguments[0] if arguments else ()
    raise ValueError("a torch.Size of other than one tuple")


def _ordered_dict(arguments: tuple[Any, ...]) -> Pairs:
    match arguments:
        case ():
            return Pairs()
        case (list(items),):  # as Python 2 writes it: one list of [key, value]
            return Pairs(items)
    raise ValueError("an OrderedDict of other than one list")


def _unread(what: str) -> Maker:
    value = Unread(what)
    return Maker(lambda arguments: value)


_REBUILD: dict[str, Maker] = {
    "torch._utils._rebuild_tensor": _tensor(None, 4),
    "torch._utils._rebuild_tensor_v2": _tensor(None, 6),
    "torch._utils._rebuild_tensor_v3": _tensor(6, 7),
    "torch._utils._rebuild_parameter": Maker(_first),
    "torch._utils._rebuild_parameter_with_state": Maker(_first),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Maker(_first),
    "torch._utils._rebuild_qtensor": _unread("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _unread("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unread("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unread("a meta tensor, which has no values"),
    "torch._utils._rebuild_wrapper_subclass": _unread("a tensor subclass, which has no values"),
}

# Values that lie beside weights in files of training and are no weights: arguments, counters, random states.
_HARMLESS = [
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.set",
    "collections.Counter",
    "collections.defaultdict",
    "_codecs.encode",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.Tensor",
    "torch.device",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.serialization._get_layout",
]

NAMES: dict[str, Any] = {
    "collections.OrderedDict": Maker(_ordered_dict),
    "torch.Size": Maker(_size),
    "torch._tensor._rebuild_from_type_v2": Maker(_of_type),
    "torch.nn.parameter.Parameter": Maker(_first),
    "torch.storage.UntypedStorage": _UNTYPED,
    "torch.storage._UntypedStorage": _UNTYPED,
    **_REBUILD,
    **{f"torch.{name}Storage": kind for name, kind in _STORAGES.items()},
    **{f"torch.{kind.name}": kind for kind in (*_STORAGES.values(), *_NEWER)},
    **{name: _unread(name) for name in _HARMLESS},
}
"""All that a PyTorch pickle may name."""

TENSOR_CLASSES: dict[str, Any] = {
    f"torch.{device}{name}Tensor": kind for device in ("", "cuda.") for name, kind in _STORAGES.items()
}
"""What only the tar format names beside: classes of tensors by their dtype."""
