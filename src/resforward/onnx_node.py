"""One ONNX node at a time, in its surroundings: its constants and options, the tensors that it reads and makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checkpoints.onnx import OnnxNode
from .errors import CheckpointError
from .graph import INPUT, Node, Op, Padding

Array = npt.NDArray[Any]
Side = int | str  # pixels, images or channels; a text where it is free

NOTHING: Padding = (0, 0, 0, 0)


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


class NodeReader:
    """A node, and what the nodes before it have made.

    Attributes:
        node: that is read. source: the file's name, for messages. opset: version of its operators.
        tensors: stored in the file. constants: computed from these, while they are wanted.
        values: tensors that depend on the images. nodes: the plain operations that make them.
    """

    def __init__(self, tensors: Mapping[str, Array], opset: int, source: str) -> None:
        self.tensors, self.opset, self.source = tensors, opset, source
        self.constants: dict[str, Array] = {}
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.node = OnnxNode("", "", (), (), {})

    def refused(self, why: str) -> CheckpointError:
        """The error for the node at which the graph stops being a ResNet."""
        return CheckpointError(
            f"{self.source} is no ResNet that is known here: it stops being one at node `{self.node.name[:80]}`"
            f" ({self.node.op[:80]})",
            found=[why],
            help="other networks are for onnxruntime",
        )

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
        top, left, bottom, right = pads or NOTHING
        if ceil and kernel < stride:
            raise self.refused("its last window may lie beside the map")
        return (top, left, bottom, right), ceil

    def square(self, name: str, default: int) -> int:
        """An attribute of two equal numbers, for height and width."""
        values = self.ints(99, name) if name in self.node.attributes else (default, default)
        if values is None or len(values) != 2 or values[0] != values[1] or not 0 < values[0] < 1 << 15:
            raise self.refused(f"its {name} are {values}, and here they are two equal ones")
        return values[0]

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
