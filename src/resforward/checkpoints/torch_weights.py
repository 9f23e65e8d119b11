"""From what a PyTorch pickle describes to arrays: which of its dicts is the model's, and where its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from resforward.checkpoints.arrays import Array, Contents, byte_size, view
from resforward.checkpoints.files import File
from resforward.checkpoints.pickles import Pairs, describe
from resforward.checkpoints.torch_values import Storage, Tensor
from resforward.errors import CheckpointError

# Where training scripts keep a model's state dict, and where the running average of it that they evaluate.
_MODEL_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")
_AVERAGE_KEYS = ("state_dict_ema", "model_ema")
_SAVE = "save the model's weights alone, in PyTorch: torch.save(model.state_dict(), path)"


def weights(value: Any, bytes_of: Callable[[Storage], memoryview], file: File, swapped: bool = False) -> Contents:
    """Return the tensors of the model's state dict as arrays, wherever it is in the value of a pickle.

    A state dict has tensors and no dicts. It is the value itself, or one of its items under a customary key; a running
    average is read only where there is nothing else. What lies beside it is skipped by its name, as are values in
    it that are no tensors of numbers.

    >>> from resforward.checkpoints.files import Budget
    >>> from resforward.checkpoints.torch_values import NAMES
    >>> file = File("x.pth", memoryview(bytes([0, 0, 128, 63])), Budget())
    >>> kind = NAMES["torch.FloatStorage"]
    >>> model = Pairs([("bias", Tensor(Storage("0", kind, 1, 0, 1), kind, 0, (1,), (1,)))])
    >>> contents = weights(Pairs([("model", model), ("epoch", 3)]), lambda storage: file.data, file)
    >>> contents.tensors, contents.skipped
    ({'bias': array([1.], dtype=float32)}, {'epoch': 'an int'})

    Args:
        bytes_of: the bytes that are stored under a storage's key: of all of it, not only of the part it is a view of.
        swapped: whether the numbers are big-endian.

    Raises:
        CheckpointError: there is no state dict, there are several, or a tensor does not lie in its storage.
    """
    named = _named(value, file) if isinstance(value, Pairs) else {}
    chosen, skipped = _state_dict(value, named, file)
    contents = Contents({}, skipped)
    unclaimed: dict[str, int] = {}
    for name, tensor in chosen.items():
        if not isinstance(tensor, Tensor) or tensor.kind.dtype is None:
            contents.skipped[name] = tensor.kind.name if isinstance(tensor, Tensor) else describe(tensor)
            continue
        where = f"tensor `{name[:80]}`"
        data = bytes_of(tensor.storage)
        dtype = tensor.kind.dtype.newbyteorder() if swapped else tensor.kind.dtype
        array = _array(tensor, dtype, data, file, where)
        # Tensors may share a storage, and an element may be repeated. What that adds up to is an allocation to whoever
        # copies the arrays, so it is taken from the budget.
        left = unclaimed.get(tensor.storage.key, len(data)) - array.nbytes
        file.budget.take_bytes(max(0, -left), f"`{file.name}`: {where}")
        unclaimed[tensor.storage.key] = max(0, left)
        contents.tensors[name] = array
    return contents


def _named(pairs: Pairs, file: File) -> dict[str, Any]:
    """Return a dict's items that have a name, or raise CheckpointError for a name twice."""
    named: dict[str, Any] = {}
    for item in pairs.items:
        match item:
            case (str(name), value):
                if name in named:
                    raise file.damaged(f"`{name[:80]}` is there twice")
                if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
                    raise file.damaged("a name is not Unicode", f"{name[:80]!r}")
                named[name] = value
            case (_, Tensor()):
                raise file.damaged("a tensor has no name", f"its key is {describe(item[0])}")
            case (_, _):  # an optimizer's state is numbered
                pass
            case _:
                raise file.damaged(f"a dict has {describe(item)} for an item")
    return named


def _state_dict(value: Any, named: dict[str, Any], file: File) -> tuple[dict[str, Any], dict[str, str]]:
    """Choose the model's state dict; return it, and what lies beside it."""
    for keys in (_MODEL_KEYS, _AVERAGE_KEYS):
        inner = {key: _named(named[key], file) for key in keys if isinstance(named.get(key), Pairs)}
        found = {key: items for key, items in inner.items() if _is_state_dict(items)}
        if len(found) > 1:
            raise CheckpointError(
                f"`{file.name}` holds {len(found)} state dicts",
                found=[f"`{key}`: {len(items)} values" for key, items in found.items()],
                help="save the one you want alone, in PyTorch: torch.save(torch.load(path)[key], other_path)",
            )
        for key, items in found.items():
            return items, {other: _beside(other, beside) for other, beside in named.items() if other != key}
    if _is_state_dict(named):
        return named, {}
    what = f"a dict of {len(value.items)}" if isinstance(value, Pairs) else describe(value)
    raise CheckpointError(
        f"`{file.name}` holds no state dict, but {what}",
        found=[f"`{key[:80]}` is {_beside(key, inner)}" for key, inner in named.items()],
        help=_SAVE,
    )


def _is_state_dict(items: dict[str, Any]) -> bool:
    values = items.values()
    return any(isinstance(value, Tensor) for value in values) and not any(isinstance(value, Pairs) for value in values)


def _beside(key: str, value: Any) -> str:
    if key in _AVERAGE_KEYS:
        return "a running average of the model"
    return "a tensor beside the model" if isinstance(value, Tensor) else describe(value)


def _array(tensor: Tensor, dtype: np.dtype[Any], data: memoryview, file: File, where: str) -> Array:
    """Show a tensor's window into its storage, without copying."""
    storage = tensor.storage
    size = byte_size(tensor.shape, dtype, file, where)
    if min((tensor.offset, *tensor.strides)) < 0:
        raise file.damaged(f"{where} has a negative offset or stride: {tensor.offset}, {tensor.strides}")
    # The stride of a single element, or of none, is never used and may be anything.
    steps = [stride if length > 1 else 0 for length, stride in zip(tensor.shape, tensor.strides, strict=True)]
    span = sum((length - 1) * step for length, step in zip(tensor.shape, steps, strict=True)) + 1 if size else 0
    start = storage.start * storage.kind.size + tensor.offset * dtype.itemsize
    stop = (storage.start + storage.size) * storage.kind.size
    if start + span * dtype.itemsize > stop:
        raise file.damaged(
            f"{where} is outside of its storage",
            f"shape {tensor.shape}, strides {tensor.strides} from element {tensor.offset} take {span} elements",
            f"storage `{storage.key[:80]}` has {stop - storage.start * storage.kind.size} bytes",
        )
    if not size or steps == _contiguous(tensor.shape):
        return view(data[start : start + size], tensor.shape, dtype, file, where)
    if size > len(file.data):
        raise file.damaged(f"{where} repeats its numbers to {size} bytes", f"the file has {len(file.data)}")
    flat = view(data[start : start + span * dtype.itemsize], (span,), dtype, file, where)
    return np.lib.stride_tricks.as_strided(
        flat, tensor.shape, [step * dtype.itemsize for step in steps], writeable=False
    )


def _contiguous(shape: tuple[int, ...]) -> list[int]:
    """The strides of a tensor whose elements follow one another, in elements; 0 where there is one element."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step if length > 1 else 0)
        step *= length
    return strides[::-1]
