"""ONNX's operators, one function each: how a node that images go through is spelled in plain operations.

(onnx/onnx: docs/Operators.md, docs/Changelog.md for what earlier versions had.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from .onnx_node import NOTHING, Array, NodeReader, Side, Value


def _conv(reader: NodeReader, value: Value) -> None:
    reader.on_map(value)
    weights, biases = reader.numbers(1), reader.numbers(2)
    if weights is None or weights.ndim != 4 or weights.shape[2] != weights.shape[3]:
        raise reader.refused("its weights are no square kernels")
    depth, depth_in, kernel, _ = weights.shape
    if reader.option("group", 1) != 1:
        raise reader.refused("its convolution is grouped, as ResNeXt's, and they are not computed here")
    if depth_in != value.channels or not depth or not depth_in:
        raise reader.refused(f"its kernels read {depth_in} channels, and there are {value.channels}")
    if biases is not None and biases.shape != (depth,):
        raise reader.refused(f"it has {biases.size} biases for {depth} channels")
    stride, rate = reader.square("strides", 1), reader.square("dilations", 1)
    if reader.square("kernel_shape", kernel) != kernel:
        raise reader.refused(f"its kernels have {kernel} pixels, and it says others")
    padding, _ = reader.window(value, kernel, stride, rate)
    sides = reader.windows(value, kernel, stride, padding, rate=rate)
    parts = {"weights": weights.transpose(2, 3, 1, 0)} | ({} if biases is None else {"biases": biases})
    reader.add(
        "conv",
        [value],
        "NCHW",
        (value.side("N"), depth, *sides),
        parts,
        stride=stride,
        dilation=rate,
        padding=padding,
    )


def _norm(reader: NodeReader, value: Value) -> None:
    if value.axes[:2] != "NC" or reader.option("training_mode", 0):
        raise reader.refused("it normalises as in training, or over other axes than the channels")
    parts = [reader.numbers(place) for place in range(1, 5)]
    if any(part is None or part.shape != (value.channels,) for part in parts):
        raise reader.refused(f"its variables are not of {value.channels} channels")
    named = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), parts, strict=True))
    epsilon = reader.option("epsilon", 1e-5)
    reader.add(
        "norm", [value], value.axes, value.sides, {k: v for k, v in named.items() if v is not None}, epsilon=epsilon
    )


def _group_norm(reader: NodeReader, value: Value) -> None:
    reader.on_map(value)
    groups, epsilon = reader.option("num_groups", 0), reader.option("epsilon", 1e-5)
    _normal_groups(reader, value, groups, reader.numbers(1), reader.numbers(2), epsilon)


def _instance_norm(reader: NodeReader, value: Value) -> None:
    if value.axes != "NG-" or value.map is None:
        raise reader.refused("each channel is normalised by itself, and here groups of them are")
    groups = value.side("G")
    epsilon = reader.option("epsilon", 1e-5)
    _normal_groups(reader, value.map, int(groups), reader.numbers(1), reader.numbers(2), epsilon)
    made = reader.values[reader.node.outputs[0]]
    reader.alias(replace(value, name=made.name, map=made))


def _normal_groups(
    reader: NodeReader, value: Value, groups: int, gamma: Array | None, beta: Array | None, epsilon: float
) -> None:
    depth = value.channels
    if gamma is None or beta is None or gamma.shape != beta.shape or groups < 1 or depth % groups:
        raise reader.refused(f"its groups do not fit {depth} channels")
    if gamma.shape == (groups,):
        gamma, beta = np.repeat(gamma, depth // groups), np.repeat(beta, depth // groups)
    if gamma.shape != (depth,):
        raise reader.refused(f"its variables are not of {depth} channels")
    reader.add(
        "group_norm",
        [value],
        value.axes,
        value.sides,
        {"gamma": gamma, "beta": beta},
        groups=groups,
        epsilon=epsilon,
    )


def _relu(reader: NodeReader, value: Value) -> None:
    reader.add("relu", [value], value.axes, value.sides)


def _clip(reader: NodeReader, value: Value) -> None:
    low, high = (
        reader.node.attributes.get(name) if name in reader.node.attributes else reader.given(place)
        for place, name in ((1, "min"), (2, "max"))
    )
    if low is None or np.any(np.asarray(low) != 0) or (high is not None and np.any(np.asarray(high) < 3e38)):
        raise reader.refused("it cuts values off, and a ResNet's activation is ReLU")
    _relu(reader, value)


def _sum(reader: NodeReader, value: Value) -> None:
    if len(reader.node.inputs) != 2:
        raise reader.refused(f"it adds {len(reader.node.inputs)} tensors, and a residual unit two")
    others = [reader.values[name] for name in reader.node.inputs if name in reader.values]
    if len(others) == 1:
        _affine(reader, value)
        return
    a, b = others
    # Sizes that are free are written as they came about: of two ways, differently.
    if a.axes != b.axes or any(x != y for x, y in zip(a.sides, b.sides, strict=True) if {type(x), type(y)} != {str}):
        raise reader.refused("it adds tensors of different shapes")
    reader.add("add", [a, b], a.axes, a.sides)


def _affine(reader: NodeReader, value: Value) -> None:
    """A product with a constant, or a sum: a norm without statistics."""
    first = reader.node.inputs[0] in reader.values
    constant = reader.numbers(1 if first else 0)
    if constant is None or len(reader.node.inputs) != 2:
        raise reader.refused("it wants two inputs")
    place = value.axes.index("C") if "C" in value.axes else -1
    shape = (1,) * (len(value.axes) - constant.ndim) + constant.shape
    if len(shape) != len(value.axes) or any(s != 1 for i, s in enumerate(shape) if i != place):
        raise reader.refused(f"its constant has the shape {constant.shape}, and here it is one value a channel")
    if constant.size not in (1, value.channels):
        raise reader.refused(f"its constant has {constant.size} values for {value.channels} channels")
    values = np.broadcast_to(constant.astype(np.float64).ravel(), (value.channels,))
    one, none = np.ones(value.channels), np.zeros(value.channels)
    scale, shift = {
        "Add": (one, values),
        "Sum": (one, values),
        "Sub": (one, -values) if first else (-one, values),
        "Mul": (values, none),
        "Div": (1 / values, none),
    }[reader.node.op]
    if reader.node.op == "Div" and not first:
        raise reader.refused("it divides by what depends on the images")
    parts = {"gamma": scale, "beta": shift, "moving_mean": none, "moving_variance": one}
    reader.add("norm", [value], value.axes, value.sides, parts, epsilon=0.0)


def _pad(reader: NodeReader, value: Value) -> None:
    pads = reader.ints(1, "pads")
    fill = reader.node.attributes.get("value", 0.0) if "pads" in reader.node.attributes else reader.given(2)
    axes = reader.ints(3)
    if reader.option("mode", "constant") != "constant" or axes is not None or len(value.axes) != 4 or not pads:
        raise reader.refused("it pads in a way that no ResNet does")
    if fill is not None and np.any(np.asarray(fill) != 0):
        raise reader.refused("it pads with what is not zero")
    if len(pads) != 8:
        raise reader.refused(f"it has {len(pads)} pads for four axes")
    before, after = dict(zip(value.axes, pads[:4], strict=True)), dict(zip(value.axes, pads[4:], strict=True))
    if before["N"] or before["C"] or after["N"] or after["C"] or min(pads) < 0 or max(pads) >= 1 << 15:
        raise reader.refused(f"its pads are {pads}")
    padding = (before["H"], before["W"], after["H"], after["W"])
    around = {"H": before["H"] + after["H"], "W": before["W"] + after["W"]}
    sides = [
        side
        if not around.get(letter)
        else side + around[letter]
        if isinstance(side, int)
        else f"{side}+{around[letter]}"
        for letter, side in zip(value.axes, value.sides, strict=True)
    ]
    reader.add("pad", [value], value.axes, sides, padding=padding)


def _max_pool(reader: NodeReader, value: Value) -> None:
    reader.on_map(value)
    kernel, stride = reader.square("kernel_shape", 0), reader.square("strides", 1)
    if reader.square("dilations", 1) != 1:
        raise reader.refused("its windows have holes")
    channels = value.side("N"), value.side("C")
    if reader.option("auto_pad", "NOTSET") == "SAME_UPPER" and kernel > 1:
        if reader.option("ceil_mode", 0):
            raise reader.refused("it pads, and lets the last window be cut off")
        sides: list[Side] = [
            -(-s // stride) if isinstance(s, int) else f"{s}/{stride}" for s in (value.side("H"), value.side("W"))
        ]
        reader.add("max_pool", [value], "NCHW", (*channels, *sides), kernel=kernel, stride=stride, padding="same")
        return
    padding, ceil = (NOTHING, False) if kernel == 1 else reader.window(value, kernel, stride)
    if kernel == 1 and "pads" in reader.node.attributes and any(reader.ints(99, "pads") or ()):
        raise reader.refused("it pads, and its windows have one pixel")
    if ceil and padding != NOTHING:
        raise reader.refused("it pads, and lets the last window be cut off")
    sides = list(reader.windows(value, kernel, stride, padding, ceil=ceil))
    if kernel == 1:
        reader.add("subsample", [value], "NCHW", (*channels, *sides), stride=stride)
        return
    told = "ceil" if ceil else padding
    reader.add("max_pool", [value], "NCHW", (*channels, *sides), kernel=kernel, stride=stride, padding=told)


def _avg_pool(reader: NodeReader, value: Value) -> None:
    reader.on_map(value)
    height, width = value.side("H"), value.side("W")
    if reader.ints(99, "kernel_shape") == (height, width) and not any(reader.ints(99, "pads") or ()):
        _mean(reader, value)  # whatever its stride is
        return
    kernel, stride = reader.square("kernel_shape", 0), reader.square("strides", 1)
    padding, ceil = reader.window(value, kernel, stride)
    if padding != NOTHING or reader.square("dilations", 1) != 1:
        raise reader.refused("it takes means of padding")
    whole = all(isinstance(side, int) and side % stride == 0 for side in (height, width))
    if kernel != stride or not (ceil or whole) or (ceil and reader.option("count_include_pad", 0) and not whole):
        raise reader.refused("its windows overlap, or leave out pixels at the rims")
    sides = reader.windows(value, kernel, stride, padding, ceil=ceil)
    reader.add("avg_pool", [value], "NCHW", (value.side("N"), value.side("C"), *sides), kernel=kernel, stride=stride)


def _mean(reader: NodeReader, value: Value) -> None:
    reader.on_map(value)
    reader.add("mean", [value], "NCHW", (value.side("N"), value.side("C"), 1, 1))


def _reduce_mean(reader: NodeReader, value: Value) -> None:
    axes = reader.ints(1, "axes")
    letters = {value.axes[axis] for axis in axes or () if -len(value.axes) <= axis < len(value.axes)}
    if letters != {"H", "W"}:
        raise reader.refused("it takes means over other axes than height and width")
    sides = [1 if letter in "HW" else side for letter, side in zip(value.axes, value.sides, strict=True)]
    pooled = reader.add("mean", [value], value.axes, sides)
    if not reader.option("keepdims", 1):
        reader.alias(_flat(reader, pooled))


def _flatten(reader: NodeReader, value: Value) -> None:
    """Any reshape of one pixel to a row: the values are the channels, in their order."""
    axis = reader.option("axis", 1) if reader.node.op == "Flatten" else 1
    if axis not in (1, 1 - len(value.axes)):
        raise reader.refused(f"it flattens from axis {axis} on, and images are kept apart by the first")
    if not value.pooled and value.axes != "NC":
        raise reader.refused("it flattens a map that is not pooled")
    reader.alias(_flat(reader, value))


def _flat(reader: NodeReader, value: Value) -> Value:
    """What is pooled without its pixel."""
    return Value(value.name, "NC", (value.side("N"), value.side("C")))


def _squeeze(reader: NodeReader, value: Value) -> None:
    axes = reader.ints(1, "axes")
    letters = {value.axes[axis] for axis in axes or () if -len(value.axes) <= axis < len(value.axes)}
    if not value.pooled or not letters or letters - {"H", "W"}:
        raise reader.refused("it squeezes other axes than those of a map that is pooled")
    left = [(letter, side) for letter, side in zip(value.axes, value.sides, strict=True) if letter not in letters]
    reader.alias(Value(value.name, "".join(letter for letter, _ in left), tuple(side for _, side in left)))


def _reshape(reader: NodeReader, value: Value) -> None:
    """A row of channels, groups of channels, or back from these to a map."""
    shape = reader.given(1)
    if shape is None or shape.ndim != 1:
        raise reader.refused("its shape is missing")
    target = list(shape.tolist())
    same_images = bool(target) and target[0] in (0, -1, value.side("N"))
    if value.map is not None:
        back = value.map
        wanted = [value.sides[i] if side == 0 and i < 3 else side for i, side in enumerate(target)]
        free = [i for i, side in enumerate(wanted) if side == -1]
        if len(wanted) != 4 or len(free) > 1 or any(w not in (-1, s) for w, s in zip(wanted, back.sides, strict=True)):
            raise reader.refused(f"it reshapes groups of channels to {target}, and they were {list(back.sides)}")
        reader.alias(back)
    elif len(target) == 3 and value.axes == "NCHW" and isinstance(target[1], int) and target[1] > 1:
        if not same_images or value.channels % target[1]:
            raise reader.refused(f"it reshapes a map to {target}")
        reader.alias(Value(value.name, "NG-", (value.side("N"), target[1], "the rest"), value))
    elif len(target) == 2 and same_images and target[1] in (-1, value.channels):
        _flatten(reader, value)
    elif (
        len(target) == 4
        and same_images
        and (value.axes == "NC" or value.pooled)
        and target[1] in (-1, value.channels)
        and target[2:] == [1, 1]
    ):
        reader.alias(Value(value.name, "NCHW", (value.side("N"), value.side("C"), 1, 1)))
    else:
        raise reader.refused(f"it reshapes a tensor with the axes {value.axes} to {target}")


def _dense(reader: NodeReader, value: Value) -> None:
    if value.axes != "NC" or reader.node.inputs[0] not in reader.values:
        raise reader.refused("it multiplies what is not pooled and flat")
    weights = reader.numbers(1)
    biases = None
    if reader.node.op == "Gemm":
        biases = reader.numbers(2)
        if weights is not None and reader.option("transB", 0):
            weights = weights.T
        if reader.option("transA", 0) or reader.option("alpha", 1.0) != 1 or reader.option("beta", 1.0) != 1:
            raise reader.refused("it multiplies with more than weights")
    if weights is None or weights.ndim != 2 or weights.shape[0] != value.channels or not weights.shape[1]:
        raise reader.refused(f"its weights do not fit {value.channels} channels")
    depth = weights.shape[1]
    parts = {"weights": weights}
    if biases is not None:
        if biases.shape not in ((), (1,), (1, 1), (depth,), (1, depth)):
            raise reader.refused(f"its biases have the shape {biases.shape} for {depth} classes")
        parts["biases"] = np.broadcast_to(biases.ravel(), (depth,))
    reader.add("dense", [value], "NC", (value.side("N"), depth), parts)


def _softmax(reader: NodeReader, value: Value) -> None:
    axis = reader.option("axis", -1 if reader.opset >= 13 else 1)
    # Older versions flatten what comes after the axis.
    whole = reader.opset >= 13 or value.axes == "NC" or value.pooled or axis in (-1, len(value.axes) - 1)
    if not whole or not -len(value.axes) <= axis < len(value.axes) or value.axes[axis] != "C":
        raise reader.refused("its probabilities are not over the classes")
    reader.add("softmax", [value], value.axes, value.sides)


def _transpose(reader: NodeReader, value: Value) -> None:
    perm = reader.node.attributes.get("perm", tuple(range(len(value.axes)))[::-1])
    if not isinstance(perm, tuple) or sorted(perm) != list(range(len(value.axes))) or value.map is not None:
        raise reader.refused(f"its perm is {perm}")
    order = [int(place) for place in perm]
    axes = "".join(value.axes[place] for place in order)
    if axes[0] != "N":
        raise reader.refused("it moves the axis of the images")
    reader.alias(Value(value.name, axes, tuple(value.sides[place] for place in order)))


def _cast(reader: NodeReader, value: Value) -> None:
    if reader.option("to", 1) not in (1, 10, 11, 16):
        raise reader.refused("it casts to what is no floating point")
    reader.alias(value)


def _dropout(reader: NodeReader, value: Value) -> None:
    training = reader.given(2)
    if training is not None and np.any(training):
        raise reader.refused("it drops values out as in training")
    reader.alias(value)


def shape_of(reader: NodeReader, value: Value) -> None:
    """A shape of which sizes may be free: texts."""
    begin, end = reader.option("start", 0), reader.option("end", len(value.sides))
    reader.constants[reader.node.outputs[0]] = np.array(value.sides[begin:end], object)


ON_GROUPS = ("InstanceNormalization", "Reshape", "Identity", "Cast", "Dropout")
_WINDOW = "auto_pad ceil_mode dilations kernel_shape pads strides"

# Every operator that is read, here or in onnx_constants.py: its most inputs, and the attributes that are looked at or
# make no difference. What a later version adds is neither, and refused.
OPERATORS: Mapping[str, tuple[int, str]] = {
    "Add": (2, ""),
    "AveragePool": (1, f"{_WINDOW} count_include_pad"),
    "BatchNormalization": (5, "epsilon momentum spatial training_mode"),
    "Cast": (1, "to saturate round_mode"),
    "CastLike": (2, "saturate round_mode"),
    "Clip": (3, "min max"),
    "Concat": (64, "axis"),
    "Constant": (0, "value value_float value_floats value_int value_ints"),
    "ConstantOfShape": (1, "value"),
    "Conv": (3, "auto_pad dilations group kernel_shape pads strides"),
    "Div": (2, ""),
    "Dropout": (3, "ratio seed"),
    "Expand": (2, ""),
    "Flatten": (1, "axis"),
    "Gather": (2, "axis"),
    "Gemm": (3, "alpha beta transA transB"),
    "GlobalAveragePool": (1, ""),
    "GroupNormalization": (3, "epsilon num_groups stash_type"),
    "Identity": (1, ""),
    "InstanceNormalization": (3, "epsilon"),
    "MatMul": (2, ""),
    "MaxPool": (1, f"{_WINDOW} storage_order"),
    "Mul": (2, ""),
    "Neg": (1, ""),
    "Pad": (4, "mode pads value"),
    "Pow": (2, ""),
    "Range": (3, ""),
    "Reciprocal": (1, ""),
    "ReduceMean": (2, "axes keepdims noop_with_empty_axes"),
    "Relu": (1, ""),
    "Reshape": (2, "allowzero"),
    "Shape": (1, "start end"),
    "Slice": (5, "axes ends starts"),
    "Softmax": (1, "axis"),
    "Sqrt": (1, ""),
    "Squeeze": (2, "axes"),
    "Sub": (2, ""),
    "Sum": (2, ""),
    "Transpose": (1, "perm"),
    "Unsqueeze": (2, "axes"),
}

STEPS: Mapping[str, Callable[[NodeReader, Value], None]] = {
    "Conv": _conv,
    "BatchNormalization": _norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "Relu": _relu,
    "Clip": _clip,
    "Add": _sum,
    "Sum": _sum,
    **dict.fromkeys(("Sub", "Mul", "Div"), _affine),
    "Pad": _pad,
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "GlobalAveragePool": _mean,
    "ReduceMean": _reduce_mean,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    **dict.fromkeys(("Gemm", "MatMul"), _dense),
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Identity": NodeReader.alias,
    "Cast": _cast,
    "Dropout": _dropout,
}
