"""An ONNX graph as plain operations, those of graph.py: the many spellings of the few things that a ResNet computes.

What is only bookkeeping is gone afterwards: transposes, casts, reshapes of what is pooled already, constants that an
exporter computes from others. A product with a constant, or a sum, is a norm without statistics. Every operator that
is none of a ResNet's is refused where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .checkpoints.onnx import OnnxGraph, OnnxNode
from .errors import CheckpointError
from .graph import INPUT, Graph
from .onnx_constants import CONSTANT_OPS, evaluate
from .onnx_node import Array, NodeReader, Side, Value
from .onnx_operators import ON_GROUPS, OPERATORS, STEPS, shape_of

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
        return _GraphReader(graph, tensors, source).graph()


class _GraphReader(NodeReader):
    """Nodes one after another: constants are evaluated, images' tensors followed."""

    def __init__(self, graph: OnnxGraph, tensors: Mapping[str, Array], source: str) -> None:
        super().__init__(tensors, graph.opset, source)
        self.onnx = graph
        self.needed = _needed(graph)
        self.uses = Counter(name for node in self.needed for name in node.inputs)
        self.stored = _SMALL + sum(array.size for array in tensors.values())
        self.live = self.computed = 0  # values of `constants`, and of all that were ever there

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
                shape_of(self, self.values[inputs[0]])
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

    def check(self) -> None:
        """A node of an operator that is known, with nothing that is not, that makes one new tensor."""
        node = self.node
        if node.op not in OPERATORS:
            raise self.refused(_WHY.get(node.op, f"no ResNet computes {node.op[:40]}"))
        inputs, attributes = OPERATORS[node.op]
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

    def step(self, inputs: Sequence[str]) -> None:
        """A node that images go through."""
        method = STEPS.get(self.node.op)
        if method is None:
            raise self.refused(f"no ResNet computes {self.node.op} of its images")
        several = len(inputs) > 1
        if several and self.node.op not in ("Add", "Sum"):
            why = "two tensors are multiplied, as squeeze-and-excitation does" if self.node.op == "Mul" else ""
            raise self.refused(why or "two of its inputs depend on the images")
        value = self.values[inputs[0]]
        if any(self.values[name].map is not None for name in inputs) and self.node.op not in ON_GROUPS:
            raise self.refused("it reads groups of channels as a group norm has them")
        method(self, value)


def _needed(graph: OnnxGraph) -> list[OnnxNode]:
    """The nodes that lead to an output, in order."""
    wanted = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if wanted.intersection(filter(None, node.outputs)):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
