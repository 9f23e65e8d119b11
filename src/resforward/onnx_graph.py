"""An ONNX graph as plain operations, those of graph.py: the many spellings of the few things that a ResNet computes.

What is only bookkeeping is gone afterwards: transposes, casts, reshapes of what is pooled already, constants that an
exporter computes from others. A product with a constant, or a sum, is a norm without statistics. Every operator that
is none of a ResNet's is refused where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .checkpoints.onnx import OnnxGraph, OnnxNode
from .errors import CheckpointError
from .graph import INPUT, Graph, Node, Op, Padding
from .onnx_constants import CONSTANT_OPS, evaluate

Array = npt.NDArray[Any]
Side = int | str  # pixels, images or channels; a text where it is free

_NOTHING: Padding = (0, 0, 0, 0)
# What may be made of constants, and read for it, times what is stored: weights to be standardised take 15, one layer
# after another.
_LIVE, _COMPUTED, _SMALL = 4, 64, 1 << 20
_OLDEST = 7  # before it, shapes were made to fit by attributes
_WHY = {
    "Sigmoid": "squeeze-and-excitation and attention are not computed here",
    "HardSigmoid": "squeeze-and-excitation and attention are not computed here",
    **dict.fromkeys(
        ("QLinearConv", "ConvInteger", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        "it is a quantised network: take the one that it was made from",
    ),
    **dict.fromkeys(("If", "Loop", "Scan"), "control flow is not read"),
}


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the images.

    Args:
        name: of the plain operation's tensor. sides: its size along each letter of `axes`.
        axes: what its axes are, "NCHW" or another order of these; "NC" once it is pooled and flat; "NG-" while each
            group of channels is one axis, for a group norm; `map` is then what it was before.
    """

    name: str
    axes: str
    sides: tuple[Side, ...]
    map: Value | None = None

    def side(self, letter: str) -> Side:
        """Its size along an axis."""
        return self.sides[self.axes.index(letter)]

    @property
    def channels(self) -> int:
        """A number where a convolution has made them."""
        side = self.side("C")
        return side if isinstance(side, int) else 0

    @property
    def pooled(self) -> bool:
        """Whether it has one pixel, on axes that are there still."""
        sides = [side for letter, side in zip(self.axes, self.sides, strict=True) if letter in "HW"]
        return bool(sides) and all(side == 1 for side in sides)


def plain_operations(graph: OnnxGraph, tensors: Mapping[str, Array], source: str) -> Graph:
    """Read an ONNX graph as plain operations, of images of any size or of the one that it was made for.

    >>> checkpoint = read_checkpoint("resnet50.onnx")  # doctest: +SKIP
    >>> plain_operations(checkpoint.graph, checkpoint, "resnet50.onnx").nodes[0].op  # doctest: +SKIP
    'conv'

    Args:
        graph: of `read_checkpoint`. tensors: its constants.
        source: the file's name, for messages.

    Raises:
        CheckpointError: a node that no ResNet has, or that is not computed here as it stands.
    """
    with np.errstate(all="ignore"):  # what is not finite is refused with the weights
        return _Reader(graph, tensors, source).graph()


class _Reader:
    """Nodes one after another: constants are evaluated, images' tensors followed."""

    def __init__(self, graph: OnnxGraph, tensors: Mapping[str, Array], source: str) -> None:
        self.onnx, self.tensors, self.source = graph, tensors, source
        self.needed = _needed(graph)
        self.uses = Counter(name for node in self.needed for name in node.inputs)
        self.constants: dict[str, Array] = {}
        self.stored = _SMALL + sum(array.size for array in tensors.values())
        self.live = self.computed = 0  # values of `constants`, and of all that were ever there
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.node = OnnxNode("", "", (), (), {})

    def graph(self) -> Graph:
        """All of it."""
        if self.onnx.opset < _OLDEST:
            raise CheckpointError(
                f"{self.source} is of version {self.onnx.opset} of ONNX's operators, and {_OLDEST} is the oldest read",
                help="`onnx.version_converter.convert_version` makes a newer one of it",
            )
        image = self.image()
        for node in self.needed:
            self.node = node
            self.check()
            inputs = [name for name in self.node.inputs if name in self.values]
            if inputs and self.node.op == "Shape":
                self.shape_of(self.values[inputs[0]])
            elif inputs and self.node.op != "CastLike":
                self.step(inputs)
            elif inputs and self.node.inputs[0] in self.values:
                self.alias(self.values[self.node.inputs[0]])
            else:
                self.constant()
            for name in node.inputs:
                self.uses[name] -= 1
                if not self.uses[name] and name in self.constants:
                    self.live -= self.constants.pop(name).size
        outputs = [self.values[name] for name in self.onnx.outputs if name in self.values]
        if not outputs:
            raise CheckpointError(f"{self.source} computes nothing from its images")
        for name in self.onnx.outputs:
            if name in self.values and self.values[name].axes not in ("NC", "NCHW", "NHWC"):
                raise CheckpointError(f"{self.source}: its output `{name[:80]}` has its axes in an unknown order")
        height, width = (side if isinstance(side, int) else None for side in (image.side("H"), image.side("W")))
        shape = (height, width, image.channels)
        names = tuple(value.name for value in outputs)
        return Graph(self.source, shape, tuple(self.nodes), names, channels_last=image.axes[-1] == "C")

    def image(self) -> Value:
        """The one input, with its axes as the first convolution wants them."""
        if len(self.onnx.inputs) != 1:
            raise CheckpointError(
                f"{self.source} has {len(self.onnx.inputs)} inputs, and a ResNet has one",
                found=[f"they are {', '.join(name[:40] for name in list(self.onnx.inputs)[:6]) or 'none'}"],
            )
        ((name, shape),) = self.onnx.inputs.items()
        order, channels = self.input_axes(name)
        if order not in ("NCHW", "NHWC"):
            raise CheckpointError(f"{self.source}: the axes of its images are {order}, and NCHW and NHWC are known")
        sides: list[Side] = list(order)
        if shape is not None:
            if len(shape) != 4:
                raise CheckpointError(f"{self.source}: `{name}` has {len(shape)} axes, and images have 4")
            sides = [side if isinstance(side, int) and side > 0 else sides[i] for i, side in enumerate(shape)]
        sides[order.index("C")] = channels
        self.values[name] = image = Value(INPUT, order, tuple(sides))
        return image

    def input_axes(self, name: str) -> tuple[str, int]:
        """What the axes of the images are, as they stand, and how many channels they have."""
        orders = {name: (0, 1, 2, 3)}
        for node in self.needed:
            self.node = node
            order = next((orders[read] for read in self.node.inputs if read in orders), None)
            if order is None:
                continue
            if self.node.op == "Conv":
                letters = [""] * 4
                for letter, place in zip("NCHW", order, strict=True):
                    letters[place] = letter
                shape = self.onnx.inputs[name]
                channels = shape[letters.index("C")] if shape and len(shape) == 4 else None
                weights = self.tensors.get(self.node.inputs[1]) if len(self.node.inputs) > 1 else None
                if weights is not None and weights.ndim == 4:
                    channels = weights.shape[1]
                if not isinstance(channels, int):
                    raise self.refused("it is not said how many channels its images have")
                return "".join(letters), channels
            if self.node.op == "Transpose":
                perm = self.node.attributes.get("perm", (3, 2, 1, 0))
                if not isinstance(perm, tuple) or sorted(perm) != [0, 1, 2, 3]:
                    raise self.refused("images have four axes")
                order = tuple(order[int(place)] for place in perm)  # type: ignore[assignment]
            orders |= dict.fromkeys(self.node.outputs, order)
        raise CheckpointError(f"{self.source} is no ResNet: its images go through no convolution")

    def refused(self, why: str) -> CheckpointError:
        """The error for the node at which the graph stops being a ResNet."""
        return CheckpointError(
            f"{self.source} is no ResNet that is known here: it stops being one at node `{self.node.name[:80]}`"
            f" ({self.node.op[:80]})",
            found=[why],
            help="other networks are for onnxruntime",
        )

    def check(self) -> None:
        """A node of an operator that is known, with nothing that is not, that makes one new tensor."""
        node = self.node
        if node.op not in _OPERATORS:
            raise self.refused(_WHY.get(node.op, f"no ResNet computes {node.op[:40]}"))
        inputs, attributes = _OPERATORS[node.op]
        if len(node.inputs) > inputs:
            raise self.refused(f"it has {len(node.inputs)} inputs, and at most {inputs} are known")
        if unknown := sorted(set(node.attributes) - set(attributes.split())):
            raise self.refused(f"its attribute {unknown[0][:40]} is not known here")
        first, *others = node.outputs or ("",)
        of_images = any(name in self.values for name in node.inputs)
        if not first or (
            of_images and any(others) and node.op != "Dropout"
        ):  # whoever reads others finds no such tensor
            raise self.refused("it makes another number of tensors than one")
        if first in self.values or first in self.constants or first in self.tensors:
            raise self.refused(f"there is a tensor `{first[:80]}` already")

    def constant(self) -> None:
        """A node that depends on no image."""
        inputs = [self.lookup(name) if name and name not in self.values else None for name in self.node.inputs]
        if self.node.op not in CONSTANT_OPS:
            raise self.refused(f"no ResNet's constants are made by {self.node.op}")
        try:
            result = evaluate(self.node.op, inputs, self.node.attributes)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise self.refused(f"what it makes of constants cannot be computed: {error}"[:300]) from error
        self.live += result.size
        self.computed += max(result.size, *(array.size for array in inputs if array is not None), 0)
        if self.live > _LIVE * self.stored or self.computed > _COMPUTED * self.stored:
            raise self.refused("more is made of its constants than any exporter leaves to be done")
        self.constants[self.node.outputs[0]] = result

    def lookup(self, name: str) -> Array:
        """A constant by name."""
        if name in self.constants:
            return self.constants[name]
        if name in self.tensors:
            return self.tensors[name]
        raise self.refused(f"its input `{name[:80]}` is neither a constant nor made before it")

    def given(self, place: int) -> Array | None:
        """A constant input of this node by its place; None where it is omitted."""
        name = self.node.inputs[place] if place < len(self.node.inputs) else ""
        if name in self.values:
            raise self.refused(f"its input {place + 1} depends on the images")
        return self.lookup(name) if name else None

    def numbers(self, place: int) -> Array | None:
        """The same, of floating point."""
        array = self.given(place)
        if array is not None and array.dtype.kind != "f":
            raise self.refused(f"its input {place + 1} is of {array.dtype}, and weights are floats")
        return array

    def ints(self, place: int, attribute: str = "") -> tuple[int, ...] | None:
        """Whole numbers: an attribute in older versions of an operator, an input in newer ones."""
        told = self.node.attributes.get(attribute)
        array = np.asarray(told) if told is not None else self.given(place)
        if array is None:
            return None
        if array.dtype.kind not in "iu" or array.size > 16:
            raise self.refused(f"its {attribute or f'input {place + 1}'} is no list of whole numbers")
        return tuple(int(value) for value in array.ravel())

    def option(self, name: str, default: Any) -> Any:
        """An attribute of the type of its default."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, type(default)):
            raise self.refused(f"its {name} is {value!r}"[:120])
        return value

    def step(self, inputs: Sequence[str]) -> None:
        """A node that images go through."""
        method = _STEPS.get(self.node.op)
        if method is None:
            raise self.refused(f"no ResNet computes {self.node.op} of its images")
        several = len(inputs) > 1
        if several and self.node.op not in ("Add", "Sum"):
            why = "two tensors are multiplied, as squeeze-and-excitation does" if self.node.op == "Mul" else ""
            raise self.refused(why or "two of its inputs depend on the images")
        value = self.values[inputs[0]]
        if any(self.values[name].map is not None for name in inputs) and self.node.op not in _ON_GROUPS:
            raise self.refused("it reads groups of channels as a group norm has them")
        method(self, value)

    def alias(self, value: Value) -> None:
        """This node's tensor is one that is there already."""
        self.values[self.node.outputs[0]] = value

    def add(
        self,
        op: Op,
        inputs: Sequence[Value],
        axes: str,
        sides: Sequence[Side],
        weights: Mapping[str, Array] | None = None,
        **attributes: Any,
    ) -> Value:
        """A plain operation, and the tensor that it makes."""
        name = f"node {len(self.nodes)}" if self.node.outputs[0] == INPUT else self.node.outputs[0]
        value = Value(name, axes, tuple(sides))
        height, width = (value.side(letter) if letter in axes else None for letter in "HW")
        flat = "H" not in axes
        shape = (
            (value.channels,)
            if flat
            else (*(s if isinstance(s, int) else None for s in (height, width)), value.channels)
        )
        # What was computed takes its last form at once; what lies in the file stays a view of it.
        arrays = {
            part: array if array.dtype == np.float32 else np.ascontiguousarray(array, np.float32)
            for part, array in (weights or {}).items()
        }
        self.nodes.append(
            Node(op, name, tuple(v.name for v in inputs), shape, name if arrays else "", arrays, attributes)
        )
        self.values[self.node.outputs[0]] = value
        return value

    def on_map(self, value: Value) -> None:
        """Refuse what is no feature map with its axes in ONNX's order."""
        if value.axes != "NCHW":
            raise self.refused(f"it reads a tensor with the axes {value.axes}, and a feature map's are NCHW")

    def window(self, value: Value, kernel: int, stride: int, rate: int = 1) -> tuple[Padding, bool]:
        """The padding of a window, (top, left, bottom, right), and whether a last one may be cut off."""
        auto, ceil = self.option("auto_pad", "NOTSET"), bool(self.option("ceil_mode", 0))
        if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER") or (ceil and auto.startswith("SAME")):
            raise self.refused(f"its auto_pad is {auto[:40]}{', and its last window may be cut off' if ceil else ''}")
        reach = rate * (kernel - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            rims = []
            for side in (value.side("H"), value.side("W")):
                if stride > 1 and not isinstance(side, int):
                    raise self.refused(f"its {auto} depends on the size of the images, which is free")
                total = reach - 1 if stride == 1 else max((-(-int(side) // stride) - 1) * stride + reach - int(side), 0)
                rims.append(
                    (total - total // 2, total // 2) if auto == "SAME_LOWER" else (total // 2, total - total // 2)
                )
            (top, bottom), (left, right) = rims
            return (top, left, bottom, right), False
        pads = self.ints(99, "pads") if "pads" in self.node.attributes and auto == "NOTSET" else None
        if pads is not None and (len(pads) != 4 or min(pads) < 0):
            raise self.refused(f"its pads are {pads}")
        top, left, bottom, right = pads or _NOTHING
        if ceil and kernel < stride:
            raise self.refused("its last window may lie beside the map")
        return (top, left, bottom, right), ceil

    def square(self, name: str, default: int) -> int:
        """An attribute of two equal numbers, for height and width."""
        values = self.ints(99, name) if name in self.node.attributes else (default, default)
        if values is None or len(values) != 2 or values[0] != values[1] or not 0 < values[0] < 1 << 15:
            raise self.refused(f"its {name} are {values}, and here they are two equal ones")
        return values[0]

    # Each of the following reads one operator.

    def conv(self, value: Value) -> None:
        self.on_map(value)
        weights, biases = self.numbers(1), self.numbers(2)
        if weights is None or weights.ndim != 4 or weights.shape[2] != weights.shape[3]:
            raise self.refused("its weights are no square kernels")
        depth, depth_in, kernel, _ = weights.shape
        if self.option("group", 1) != 1:
            raise self.refused("its convolution is grouped, as ResNeXt's, and they are not computed here")
        if depth_in != value.channels or not depth or not depth_in:
            raise self.refused(f"its kernels read {depth_in} channels, and there are {value.channels}")
        if biases is not None and biases.shape != (depth,):
            raise self.refused(f"it has {biases.size} biases for {depth} channels")
        stride, rate = self.square("strides", 1), self.square("dilations", 1)
        if self.square("kernel_shape", kernel) != kernel:
            raise self.refused(f"its kernels have {kernel} pixels, and it says others")
        padding, _ = self.window(value, kernel, stride, rate)
        sides = self.windows(value, kernel, stride, padding, rate=rate)
        parts = {"weights": weights.transpose(2, 3, 1, 0)} | ({} if biases is None else {"biases": biases})
        self.add(
            "conv",
            [value],
            "NCHW",
            (value.side("N"), depth, *sides),
            parts,
            stride=stride,
            dilation=rate,
            padding=padding,
        )

    def windows(
        self, value: Value, kernel: int, stride: int, padding: Padding, *, rate: int = 1, ceil: bool = False
    ) -> tuple[Side, Side]:
        """Height and width of what windows make of a map."""
        top, left, bottom, right = padding
        sides: list[Side] = []
        for letter, around in (("H", top + bottom), ("W", left + right)):
            side = value.side(letter)
            if isinstance(side, int):
                free = side + around - rate * (kernel - 1) - 1
                if free < 0:
                    raise self.refused(f"its windows are larger than the map, which has {side} pixels")
                sides.append((-(-free // stride) if ceil else free // stride) + 1)
            else:
                same = stride == 1 and around == rate * (kernel - 1)
                sides.append(side if same else f"({side}+{around}-{rate * (kernel - 1)})/{stride}")
        return sides[0], sides[1]

    def norm(self, value: Value) -> None:
        if value.axes[:2] != "NC" or self.option("training_mode", 0):
            raise self.refused("it normalises as in training, or over other axes than the channels")
        parts = [self.numbers(place) for place in range(1, 5)]
        if any(part is None or part.shape != (value.channels,) for part in parts):
            raise self.refused(f"its variables are not of {value.channels} channels")
        named = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), parts, strict=True))
        epsilon = self.option("epsilon", 1e-5)
        self.add(
            "norm", [value], value.axes, value.sides, {k: v for k, v in named.items() if v is not None}, epsilon=epsilon
        )

    def group_norm(self, value: Value) -> None:
        self.on_map(value)
        groups, epsilon = self.option("num_groups", 0), self.option("epsilon", 1e-5)
        self.normal_groups(value, groups, self.numbers(1), self.numbers(2), epsilon)

    def instance_norm(self, value: Value) -> None:
        if value.axes != "NG-" or value.map is None:
            raise self.refused("each channel is normalised by itself, and here groups of them are")
        groups = value.side("G")
        epsilon = self.option("epsilon", 1e-5)
        self.normal_groups(value.map, int(groups), self.numbers(1), self.numbers(2), epsilon)
        made = self.values[self.node.outputs[0]]
        self.alias(replace(value, name=made.name, map=made))

    def normal_groups(self, value: Value, groups: int, gamma: Array | None, beta: Array | None, epsilon: float) -> None:
        depth = value.channels
        if gamma is None or beta is None or gamma.shape != beta.shape or groups < 1 or depth % groups:
            raise self.refused(f"its groups do not fit {depth} channels")
        if gamma.shape == (groups,):
            gamma, beta = np.repeat(gamma, depth // groups), np.repeat(beta, depth // groups)
        if gamma.shape != (depth,):
            raise self.refused(f"its variables are not of {depth} channels")
        self.add(
            "group_norm",
            [value],
            value.axes,
            value.sides,
            {"gamma": gamma, "beta": beta},
            groups=groups,
            epsilon=epsilon,
        )

    def relu(self, value: Value) -> None:
        self.add("relu", [value], value.axes, value.sides)

    def clip(self, value: Value) -> None:
        low, high = (
            self.node.attributes.get(name) if name in self.node.attributes else self.given(place)
            for place, name in ((1, "min"), (2, "max"))
        )
        if low is None or np.any(np.asarray(low) != 0) or (high is not None and np.any(np.asarray(high) < 3e38)):
            raise self.refused("it cuts values off, and a ResNet's activation is ReLU")
        self.relu(value)

    def sum(self, value: Value) -> None:
        if len(self.node.inputs) != 2:
            raise self.refused(f"it adds {len(self.node.inputs)} tensors, and a residual unit two")
        others = [self.values[name] for name in self.node.inputs if name in self.values]
        if len(others) == 1:
            self.affine(value)
            return
        a, b = others
        # Sizes that are free are written as they came about: of two ways, differently.
        if a.axes != b.axes or any(
            x != y for x, y in zip(a.sides, b.sides, strict=True) if {type(x), type(y)} != {str}
        ):
            raise self.refused("it adds tensors of different shapes")
        self.add("add", [a, b], a.axes, a.sides)

    def affine(self, value: Value) -> None:
        """A product with a constant, or a sum: a norm without statistics."""
        first = self.node.inputs[0] in self.values
        constant = self.numbers(1 if first else 0)
        if constant is None or len(self.node.inputs) != 2:
            raise self.refused("it wants two inputs")
        place = value.axes.index("C") if "C" in value.axes else -1
        shape = (1,) * (len(value.axes) - constant.ndim) + constant.shape
        if len(shape) != len(value.axes) or any(s != 1 for i, s in enumerate(shape) if i != place):
            raise self.refused(f"its constant has the shape {constant.shape}, and here it is one value a channel")
        if constant.size not in (1, value.channels):
            raise self.refused(f"its constant has {constant.size} values for {value.channels} channels")
        values = np.broadcast_to(constant.astype(np.float64).ravel(), (value.channels,))
        one, none = np.ones(value.channels), np.zeros(value.channels)
        scale, shift = {
            "Add": (one, values),
            "Sum": (one, values),
            "Sub": (one, -values) if first else (-one, values),
            "Mul": (values, none),
            "Div": (1 / values, none),
        }[self.node.op]
        if self.node.op == "Div" and not first:
            raise self.refused("it divides by what depends on the images")
        parts = {"gamma": scale, "beta": shift, "moving_mean": none, "moving_variance": one}
        self.add("norm", [value], value.axes, value.sides, parts, epsilon=0.0)

    def pad(self, value: Value) -> None:
        pads = self.ints(1, "pads")
        fill = self.node.attributes.get("value", 0.0) if "pads" in self.node.attributes else self.given(2)
        axes = self.ints(3)
        if self.option("mode", "constant") != "constant" or axes is not None or len(value.axes) != 4 or not pads:
            raise self.refused("it pads in a way that no ResNet does")
        if fill is not None and np.any(np.asarray(fill) != 0):
            raise self.refused("it pads with what is not zero")
        if len(pads) != 8:
            raise self.refused(f"it has {len(pads)} pads for four axes")
        before, after = dict(zip(value.axes, pads[:4], strict=True)), dict(zip(value.axes, pads[4:], strict=True))
        if before["N"] or before["C"] or after["N"] or after["C"] or min(pads) < 0 or max(pads) >= 1 << 15:
            raise self.refused(f"its pads are {pads}")
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
        self.add("pad", [value], value.axes, sides, padding=padding)

    def max_pool(self, value: Value) -> None:
        self.on_map(value)
        kernel, stride = self.square("kernel_shape", 0), self.square("strides", 1)
        if self.square("dilations", 1) != 1:
            raise self.refused("its windows have holes")
        channels = value.side("N"), value.side("C")
        if self.option("auto_pad", "NOTSET") == "SAME_UPPER" and kernel > 1:
            if self.option("ceil_mode", 0):
                raise self.refused("it pads, and lets the last window be cut off")
            sides: list[Side] = [
                -(-s // stride) if isinstance(s, int) else f"{s}/{stride}" for s in (value.side("H"), value.side("W"))
            ]
            self.add("max_pool", [value], "NCHW", (*channels, *sides), kernel=kernel, stride=stride, padding="same")
            return
        padding, ceil = (_NOTHING, False) if kernel == 1 else self.window(value, kernel, stride)
        if kernel == 1 and "pads" in self.node.attributes and any(self.ints(99, "pads") or ()):
            raise self.refused("it pads, and its windows have one pixel")
        if ceil and padding != _NOTHING:
            raise self.refused("it pads, and lets the last window be cut off")
        sides = list(self.windows(value, kernel, stride, padding, ceil=ceil))
        if kernel == 1:
            self.add("subsample", [value], "NCHW", (*channels, *sides), stride=stride)
            return
        told = "ceil" if ceil else padding
        self.add("max_pool", [value], "NCHW", (*channels, *sides), kernel=kernel, stride=stride, padding=told)

    def avg_pool(self, value: Value) -> None:
        self.on_map(value)
        height, width = value.side("H"), value.side("W")
        if self.ints(99, "kernel_shape") == (height, width) and not any(self.ints(99, "pads") or ()):
            self.mean(value)  # whatever its stride is
            return
        kernel, stride = self.square("kernel_shape", 0), self.square("strides", 1)
        padding, ceil = self.window(value, kernel, stride)
        if padding != _NOTHING or self.square("dilations", 1) != 1:
            raise self.refused("it takes means of padding")
        whole = all(isinstance(side, int) and side % stride == 0 for side in (height, width))
        if kernel != stride or not (ceil or whole) or (ceil and self.option("count_include_pad", 0) and not whole):
            raise self.refused("its windows overlap, or leave out pixels at the rims")
        sides = self.windows(value, kernel, stride, padding, ceil=ceil)
        self.add("avg_pool", [value], "NCHW", (value.side("N"), value.side("C"), *sides), kernel=kernel, stride=stride)

    def mean(self, value: Value) -> None:
        self.on_map(value)
        self.add("mean", [value], "NCHW", (value.side("N"), value.side("C"), 1, 1))

    def reduce_mean(self, value: Value) -> None:
        axes = self.ints(1, "axes")
        letters = {value.axes[axis] for axis in axes or () if -len(value.axes) <= axis < len(value.axes)}
        if letters != {"H", "W"}:
            raise self.refused("it takes means over other axes than height and width")
        sides = [1 if letter in "HW" else side for letter, side in zip(value.axes, value.sides, strict=True)]
        pooled = self.add("mean", [value], value.axes, sides)
        if not self.option("keepdims", 1):
            self.alias(self.flat(pooled))

    def flatten(self, value: Value) -> None:
        """Any reshape of one pixel to a row: the values are the channels, in their order."""
        axis = self.option("axis", 1) if self.node.op == "Flatten" else 1
        if axis not in (1, 1 - len(value.axes)):
            raise self.refused(f"it flattens from axis {axis} on, and images are kept apart by the first")
        if not value.pooled and value.axes != "NC":
            raise self.refused("it flattens a map that is not pooled")
        self.alias(self.flat(value))

    def flat(self, value: Value) -> Value:
        """What is pooled without its pixel."""
        return Value(value.name, "NC", (value.side("N"), value.side("C")))

    def squeeze(self, value: Value) -> None:
        axes = self.ints(1, "axes")
        letters = {value.axes[axis] for axis in axes or () if -len(value.axes) <= axis < len(value.axes)}
        if not value.pooled or not letters or letters - {"H", "W"}:
            raise self.refused("it squeezes other axes than those of a map that is pooled")
        left = [(letter, side) for letter, side in zip(value.axes, value.sides, strict=True) if letter not in letters]
        self.alias(Value(value.name, "".join(letter for letter, _ in left), tuple(side for _, side in left)))

    def reshape(self, value: Value) -> None:
        """A row of channels, groups of channels, or back from these to a map."""
        shape = self.given(1)
        if shape is None or shape.ndim != 1:
            raise self.refused("its shape is missing")
        target = list(shape.tolist())
        same_images = bool(target) and target[0] in (0, -1, value.side("N"))
        if value.map is not None:
            back = value.map
            wanted = [value.sides[i] if side == 0 and i < 3 else side for i, side in enumerate(target)]
            free = [i for i, side in enumerate(wanted) if side == -1]
            if (
                len(wanted) != 4
                or len(free) > 1
                or any(w not in (-1, s) for w, s in zip(wanted, back.sides, strict=True))
            ):
                raise self.refused(f"it reshapes groups of channels to {target}, and they were {list(back.sides)}")
            self.alias(back)
        elif len(target) == 3 and value.axes == "NCHW" and isinstance(target[1], int) and target[1] > 1:
            if not same_images or value.channels % target[1]:
                raise self.refused(f"it reshapes a map to {target}")
            self.alias(Value(value.name, "NG-", (value.side("N"), target[1], "the rest"), value))
        elif len(target) == 2 and same_images and target[1] in (-1, value.channels):
            self.flatten(value)
        elif (
            len(target) == 4
            and same_images
            and (value.axes == "NC" or value.pooled)
            and target[1] in (-1, value.channels)
            and target[2:] == [1, 1]
        ):
            self.alias(Value(value.name, "NCHW", (value.side("N"), value.side("C"), 1, 1)))
        else:
            raise self.refused(f"it reshapes a tensor with the axes {value.axes} to {target}")

    def dense(self, value: Value) -> None:
        if value.axes != "NC" or self.node.inputs[0] not in self.values:
            raise self.refused("it multiplies what is not pooled and flat")
        weights = self.numbers(1)
        biases = None
        if self.node.op == "Gemm":
            biases = self.numbers(2)
            if weights is not None and self.option("transB", 0):
                weights = weights.T
            if self.option("transA", 0) or self.option("alpha", 1.0) != 1 or self.option("beta", 1.0) != 1:
                raise self.refused("it multiplies with more than weights")
        if weights is None or weights.ndim != 2 or weights.shape[0] != value.channels or not weights.shape[1]:
            raise self.refused(f"its weights do not fit {value.channels} channels")
        depth = weights.shape[1]
        parts = {"weights": weights}
        if biases is not None:
            if biases.shape not in ((), (1,), (1, 1), (depth,), (1, depth)):
                raise self.refused(f"its biases have the shape {biases.shape} for {depth} classes")
            parts["biases"] = np.broadcast_to(biases.ravel(), (depth,))
        self.add("dense", [value], "NC", (value.side("N"), depth), parts)

    def softmax(self, value: Value) -> None:
        axis = self.option("axis", -1 if self.onnx.opset >= 13 else 1)
        # Older versions flatten what comes after the axis.
        whole = self.onnx.opset >= 13 or value.axes == "NC" or value.pooled or axis in (-1, len(value.axes) - 1)
        if not whole or not -len(value.axes) <= axis < len(value.axes) or value.axes[axis] != "C":
            raise self.refused("its probabilities are not over the classes")
        self.add("softmax", [value], value.axes, value.sides)

    def transpose(self, value: Value) -> None:
        perm = self.node.attributes.get("perm", tuple(range(len(value.axes)))[::-1])
        if not isinstance(perm, tuple) or sorted(perm) != list(range(len(value.axes))) or value.map is not None:
            raise self.refused(f"its perm is {perm}")
        order = [int(place) for place in perm]
        axes = "".join(value.axes[place] for place in order)
        if axes[0] != "N":
            raise self.refused("it moves the axis of the images")
        self.alias(Value(value.name, axes, tuple(value.sides[place] for place in order)))

    def cast(self, value: Value) -> None:
        if self.option("to", 1) not in (1, 10, 11, 16):
            raise self.refused("it casts to what is no floating point")
        self.alias(value)

    def dropout(self, value: Value) -> None:
        training = self.given(2)
        if training is not None and np.any(training):
            raise self.refused("it drops values out as in training")
        self.alias(value)

    def shape_of(self, value: Value) -> None:
        """A shape of which sizes may be free: texts."""
        begin, end = self.option("start", 0), self.option("end", len(value.sides))
        self.constants[self.node.outputs[0]] = np.array(value.sides[begin:end], object)


_ON_GROUPS = ("InstanceNormalization", "Reshape", "Identity", "Cast", "Dropout")
_WINDOW = "auto_pad ceil_mode dilations kernel_shape pads strides"

# Every operator that is read, here or in onnx_constants.py: its most inputs, and the attributes that are looked at or
# make no difference. What a later version adds is neither, and refused.
_OPERATORS: Mapping[str, tuple[int, str]] = {
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

_STEPS: Mapping[str, Callable[[_Reader, Value], None]] = {
    "Conv": _Reader.conv,
    "BatchNormalization": _Reader.norm,
    "GroupNormalization": _Reader.group_norm,
    "InstanceNormalization": _Reader.instance_norm,
    "Relu": _Reader.relu,
    "Clip": _Reader.clip,
    "Add": _Reader.sum,
    "Sum": _Reader.sum,
    **dict.fromkeys(("Sub", "Mul", "Div"), _Reader.affine),
    "Pad": _Reader.pad,
    "MaxPool": _Reader.max_pool,
    "AveragePool": _Reader.avg_pool,
    "GlobalAveragePool": _Reader.mean,
    "ReduceMean": _Reader.reduce_mean,
    "Flatten": _Reader.flatten,
    "Squeeze": _Reader.squeeze,
    "Reshape": _Reader.reshape,
    **dict.fromkeys(("Gemm", "MatMul"), _Reader.dense),
    "Softmax": _Reader.softmax,
    "Transpose": _Reader.transpose,
    "Identity": _Reader.alias,
    "Cast": _Reader.cast,
    "Dropout": _Reader.dropout,
}


def _needed(graph: OnnxGraph) -> list[OnnxNode]:
    """The nodes that lead to an output, in order."""
    wanted = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if wanted.intersection(filter(None, node.outputs)):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
