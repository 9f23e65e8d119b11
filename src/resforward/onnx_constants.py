"""The parts of an ONNX graph that depend on no image: weights that an exporter left as arithmetic, shapes, paddings.

`CONSTANT_OPS` says in NumPy what each of a few operators makes of arrays; floating point is computed in double
precision. Sizes of a feature map that are free are symbols, texts in an array of objects, which can be moved about and
compared, and not be computed with. (onnx/onnx: docs/Operators.md.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]

_MOST = 1 << 16  # values of a result that is larger than everything it is made from


def evaluate(op: str, inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    """What an operator makes of constants; an omitted input is None.

    >>> evaluate("Concat", [np.array([1]), np.array([2, 3])], {"axis": 0})
    array([1, 2, 3])

    Raises:
        KeyError: an operator that is not known here.
        ValueError, TypeError, IndexError: inputs that it cannot have, or a result that is far larger than they are.
    """
    result = CONSTANT_OPS[op](inputs, attributes)
    return np.array(result, object) if isinstance(result, str) else np.asarray(result)  # one of several free sizes


def _array(inputs: Sequence[Array | None], place: int) -> Array:
    array = inputs[place] if place < len(inputs) else None
    if array is None:
        raise ValueError(f"its input {place + 1} is missing")
    return array


def _numbers(inputs: Sequence[Array | None], place: int) -> Array:
    """An input to compute with."""
    array = _array(inputs, place)
    if array.dtype == object:
        raise TypeError("it computes with a size that is free")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _ints(values: Any) -> list[int]:
    array = np.asarray(values).ravel()
    if array.dtype.kind not in "iu" or array.size > _MOST:
        raise TypeError("sizes, axes and places are whole numbers")
    return [int(value) for value in array]


def _axes(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[int, ...] | None:
    """An attribute in older versions, the second input in newer ones."""
    if "axes" in attributes:
        return tuple(_ints(attributes["axes"]))
    return tuple(_ints(inputs[1])) if len(inputs) > 1 and inputs[1] is not None else None


def _checked(shape: Sequence[int], inputs: Sequence[Array | None]) -> tuple[int, ...]:
    """A result's shape, before anything is allocated."""
    largest = max((array.size for array in inputs if array is not None), default=0)
    if any(side < 0 for side in shape) or math.prod(shape) > max(largest, _MOST):
        raise ValueError(f"its result has an impossible shape: {tuple(shape)}")
    return tuple(shape)


def _arithmetic(compute: Callable[[Array, Array], Array]) -> Callable[[Sequence[Array | None], Attributes], Array]:
    def run(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
        a, b = _numbers(inputs, 0), _numbers(inputs, 1)
        _checked(np.broadcast_shapes(a.shape, b.shape), inputs)
        with np.errstate(all="ignore"):  # what is not finite is refused where it would be a weight
            return compute(a, b)

    return run


def _unary(compute: Callable[[Array], Array]) -> Callable[[Sequence[Array | None], Attributes], Array]:
    def run(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
        with np.errstate(all="ignore"):
            return compute(_numbers(inputs, 0))

    return run


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        if not np.all(b):
            raise ValueError("it divides by zero")
        return a // b
    result: Array = a / b
    return result


def _constant(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    kinds: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64}
    for key, value in attributes.items():
        if key == "value":
            return np.asarray(value)
        if key in ("value_float", "value_floats", "value_int", "value_ints"):
            return np.asarray(value, kinds.get(key, np.int64))
    raise ValueError("it is a constant of no numbers")


def _cast(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    """To another width: floats stay doubles until they are weights, so only whole numbers change."""
    array, to = _array(inputs, 0), attributes.get("to", 1)
    if array.dtype == object or to in (1, 10, 11, 16):
        return array if array.dtype == object or array.dtype.kind == "f" else array.astype(np.float64)
    if to in (6, 7) and array.dtype.kind in "iubf" and np.all(np.abs(array) < 2.0**62):
        return array.astype(np.int64)
    raise TypeError(f"it casts to type {to}")


def _cast_like(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    array = _array(inputs, 0)
    like = inputs[1] if len(inputs) > 1 else None  # None: a feature map, which is float
    to = 1 if like is None or like.dtype.kind == "f" else 7
    return _cast([array], {"to": to})


def _reshape(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    array, shape = _array(inputs, 0), _ints(_array(inputs, 1))
    if not attributes.get("allowzero", 0):
        shape = [array.shape[i] if side == 0 else side for i, side in enumerate(shape)]
    return array.reshape(shape)


def _squeeze(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    return np.squeeze(_array(inputs, 0), _axes(inputs, attributes))


def _unsqueeze(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    axes = _axes(inputs, attributes)
    if axes is None or len(axes) > 8:
        raise ValueError("its axes are missing")
    return np.expand_dims(_array(inputs, 0), axes)


def _concat(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    arrays = [_array(inputs, place) for place in range(len(inputs))]
    _checked([sum(array.size for array in arrays)], inputs)
    if any(array.dtype == object for array in arrays):
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays, attributes["axis"])


def _slice(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    array = _array(inputs, 0)
    if "starts" in attributes:
        starts, ends = _ints(attributes["starts"]), _ints(attributes["ends"])
        axes, steps = attributes.get("axes"), [1] * len(starts)
    else:
        starts, ends = _ints(_array(inputs, 1)), _ints(_array(inputs, 2))
        axes = inputs[3] if len(inputs) > 3 else None
        told = inputs[4] if len(inputs) > 4 else None
        steps = [1] * len(starts) if told is None else _ints(told)
    places = [slice(None)] * array.ndim
    for axis, start, end, step in zip(
        range(len(starts)) if axes is None else _ints(axes), starts, ends, steps, strict=True
    ):
        # Going backwards, an end before the first is written as a large negative number.
        places[axis] = slice(start, None if step < 0 and end < -array.shape[axis] else end, step)
    return array[tuple(places)]


def _gather(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    array, places = _array(inputs, 0), _array(inputs, 1)
    axis = attributes.get("axis", 0)
    _checked([array.size // max(array.shape[axis], 1) * places.size], inputs)
    if places.dtype.kind not in "iu":
        raise TypeError("its places are whole numbers")
    return np.take(array, places, axis)


def _shape(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    shape = _array(inputs, 0).shape
    return np.array(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], np.int64)


def _expand(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    array, shape = _array(inputs, 0), _ints(_array(inputs, 1))
    return np.broadcast_to(array, _checked(np.broadcast_shapes(array.shape, tuple(shape)), inputs))


def _constant_of_shape(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    shape = _ints(_array(inputs, 0))
    value = np.asarray(attributes.get("value", [0.0]))
    return np.full(_checked(shape, inputs), value.ravel()[0])


def _range(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    start, stop, step = (_ints(_array(inputs, place))[0] for place in range(3))
    _checked([len(range(start, stop, step))], inputs)
    return np.arange(start, stop, step)


def _mean(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    mean: Array = _numbers(inputs, 0).mean(axis=_axes(inputs, attributes), keepdims=bool(attributes.get("keepdims", 1)))
    return mean


def _batch_norm(inputs: Sequence[Array | None], attributes: Attributes) -> Array:
    """As exporters write weight standardisation: a batch norm of the weights themselves."""
    array, gamma, beta, mean, variance = (_numbers(inputs, place) for place in range(5))
    if attributes.get("training_mode", 0):
        axes = tuple(axis for axis in range(array.ndim) if axis != 1)
        mean, variance = array.mean(axes), array.var(axes)
    along = (1, -1, *(1,) * (array.ndim - 2))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    normal: Array = (array - mean.reshape(along)) * scale.reshape(along) + beta.reshape(along)
    return normal


CONSTANT_OPS: Mapping[str, Callable[[Sequence[Array | None], Attributes], Array]] = {
    "Constant": _constant,
    "Identity": lambda inputs, attributes: _array(inputs, 0),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _reshape,
    "Transpose": lambda inputs, attributes: np.transpose(_array(inputs, 0), attributes.get("perm")),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "Shape": _shape,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divide),
    "Pow": _arithmetic(lambda a, b: np.power(a.astype(np.float64), b)),
    "Sqrt": _unary(lambda a: np.sqrt(a.astype(np.float64))),
    "Neg": _unary(np.negative),
    "Reciprocal": _unary(lambda a: 1 / a.astype(np.float64)),
    "ReduceMean": _mean,
    "BatchNormalization": _batch_norm,
}
