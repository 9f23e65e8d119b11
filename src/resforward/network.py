"""A ResNet as a table: four Blocks of units, and everything that follows from them.

A `Block` is what its reader writes: a list of `(depth, depth_bottleneck, stride)`. A `Network` is the same with every
choice made, by `resnet` in resnet.py: each `Unit` knows its shortcut, its convolutions and their rates, and shapes,
parameters and multiply-adds follow from it without weights. Words are TF-slim's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .aliases import Aliases, aliases
from .errors import EndPointError, NetworkError, nearest
from .families import Family, Norm, Post, Pre, Shortcut, Stem


@dataclass(frozen=True)
class UnitKind:
    """How many convolutions a unit has and how large they are; `bottleneck` is 1x1, 3x3, 1x1."""

    name: str
    kernels: tuple[int, ...]


bottleneck = UnitKind("bottleneck", (1, 3, 1))
basic = UnitKind("basic", (3, 3))


@dataclass(frozen=True)
class Block:
    """A list of residual units under one name, as in slim's `resnet_utils.Block`.

    >>> Block("block1", bottleneck, [(256, 64, 1)] * 2 + [(256, 64, 2)]).args[-1]
    (256, 64, 2)

    Args:
        scope: name of the Block; the prefix of its units' end points.
        unit_fn: `bottleneck` or `basic`.
        args: a unit each: (depth, depth_bottleneck, stride), or slim's dict of those names; of a basic unit,
            depth_bottleneck are the channels between its two convolutions.

    Raises:
        NetworkError: a unit that is no such triple of positive integers.
    """

    scope: str
    unit_fn: UnitKind
    args: tuple[tuple[int, int, int], ...]

    def __init__(self, scope: str, unit_fn: UnitKind, args: Iterable[Sequence[int] | Mapping[str, int]]) -> None:
        if not isinstance(unit_fn, UnitKind):
            raise NetworkError(
                f"{scope}'s unit_fn is a {type(unit_fn).__name__}",
                help="pass `resforward.bottleneck` or `resforward.basic`, which are values here",
            )
        triples, wrong = [], []
        for index, unit in enumerate(args, start=1):
            try:
                triple = _triple(unit)
            except (TypeError, ValueError, KeyError, OverflowError):
                wrong.append(f"unit_{index}: {unit!r}")
            else:
                triples.append(triple)
        if wrong or not triples:
            raise NetworkError(
                f"{scope} is no list of units",
                found=wrong or ["it is empty"],
                help="a unit is (depth, depth_bottleneck, stride), all positive integers",
            )
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "unit_fn", unit_fn)
        object.__setattr__(self, "args", tuple(triples))


def _triple(unit: Sequence[int] | Mapping[str, int]) -> tuple[int, int, int]:
    values = [unit[k] for k in ("depth", "depth_bottleneck", "stride")] if isinstance(unit, Mapping) else unit
    depth, depth_bottleneck, stride = values
    for value in (depth, depth_bottleneck, stride):
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(value)
    return int(depth), int(depth_bottleneck), int(stride)


@dataclass(frozen=True)
class Conv:
    """One convolution: what it reads is said by its unit, what it is by this row.

    Padding is rate * (kernel // 2) on both sides, whatever the stride: slim's `conv2d_same`, which is also torch's.
    Variables are called as slim calls them: NAME/weights (HWIO), NAME/biases, NAME/BatchNorm/{gamma, beta,
    moving_mean, moving_variance}.
    """

    name: str
    kernel: int
    depth_in: int
    depth: int
    stride: int = 1
    rate: int = 1
    bias: bool = False
    norm: Norm | None = None
    relu: bool = False

    @property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its variables."""
        shapes: dict[str, tuple[int, ...]] = {
            f"{self.name}/weights": (self.kernel, self.kernel, self.depth_in, self.depth)
        }
        if self.bias:
            shapes[f"{self.name}/biases"] = (self.depth,)
        if self.norm:
            shapes |= norm_variables(self.norm_scope, self.depth, self.norm)
        return shapes

    @property
    def norm_scope(self) -> str:
        """The prefix of its norm's variables."""
        return f"{self.name}/{'BatchNorm' if self.norm == 'bn' else 'GroupNorm'}"

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds for one image of height x width output pixels."""
        return height * width * self.kernel * self.kernel * self.depth_in * self.depth

    def output(self, size: int) -> int:
        """Output pixels along an axis of `size` input pixels."""
        return (size - 1) // self.stride + 1


INPUT_NORM = "images/BatchNorm"  # the prefix of its variables, where a family has one
NORM_PARTS: dict[Norm, tuple[str, ...]] = {
    "bn": ("gamma", "beta", "moving_mean", "moving_variance"),
    "gn": ("gamma", "beta"),
}


def norm_variables(scope: str, depth: int, norm: Norm = "bn") -> dict[str, tuple[int, ...]]:
    """Names and shapes of one norm's variables."""
    return {f"{scope}/{part}": (depth,) for part in NORM_PARTS[norm]}


@dataclass(frozen=True)
class Unit:
    """One residual unit with every choice made.

    Args:
        name: its end point, `block1/unit_1/bottleneck_v2`. block: the Block it belongs to.
        depth_in, depth, depth_bottleneck: channels read, written, and in between.
        stride: step of the unit, pixels. rates: dilation of each of its convolutions.
        stride_at: the convolution that carries the stride, counted from 1. norm: of which kind its norms are.
        pre, post: norm and ReLU before its paths, and what follows the sum; see `Family`.
        bias, norms: whether its convolutions have them.
        shortcut: how the input reaches the sum: `identity`; `subsample`, every stride-th pixel; `projection`, a 1x1
            convolution with the stride; `avg_projection`, the mean of stride x stride pixels and then a convolution.
        shortcut_bias, shortcut_norm: of the projection.
    """

    name: str
    block: str
    kind: UnitKind
    depth_in: int
    depth: int
    depth_bottleneck: int
    stride: int
    rates: tuple[int, ...]
    stride_at: int
    pre: Pre
    post: Post
    bias: tuple[bool, ...]
    norms: tuple[bool, ...]
    shortcut: Shortcut
    shortcut_bias: bool
    shortcut_norm: bool
    norm: Norm = "bn"

    @property
    def rate(self) -> int:
        """Dilation of its 3x3 convolutions: the largest of `rates`."""
        return max(self.rates)

    @functools.cached_property
    def projection(self) -> Conv | None:
        """The 1x1 convolution of the shortcut, where there is one."""
        if self.shortcut not in ("projection", "avg_projection"):
            return None
        return Conv(
            f"{self.name}/shortcut",
            1,
            self.depth_in,
            self.depth,
            stride=self.stride if self.shortcut == "projection" else 1,
            bias=self.shortcut_bias,
            norm=self.norm if self.shortcut_norm else None,
        )

    @functools.cached_property
    def convs(self) -> tuple[Conv, ...]:
        """The residual path, in order. Inner convolutions are always followed by ReLU."""
        rows, last = [], len(self.kind.kernels)
        depth_in = self.depth_in
        for place, kernel in enumerate(self.kind.kernels, start=1):
            depth = self.depth if place == last else self.depth_bottleneck
            rows.append(
                Conv(
                    f"{self.name}/conv{place}",
                    kernel,
                    depth_in,
                    depth,
                    stride=self.stride if place == self.stride_at else 1,
                    rate=self.rates[place - 1],
                    bias=self.bias[place - 1],
                    norm=self.norm if self.norms[place - 1] else None,
                    relu=place < last,
                )
            )
            depth_in = depth
        return tuple(rows)

    @property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its variables, in slim's order."""
        shapes = norm_variables(f"{self.name}/preact", self.depth_in, self.norm) if self.pre != "none" else {}
        for conv in (*filter(None, [self.projection]), *self.convs):
            shapes |= conv.variables
        return shapes


@dataclass(frozen=True)
class EndPoint:
    """One named tensor of a forward pass, known before any weight is.

    Args:
        name: canonical: slim's key without the network's scope.
        height, width, depth: of one image, pixels and channels.
        macs: multiply-adds spent on it by its own convolutions (a unit's are the sum of its parts').
        parameters: values of its own variables, statistics of batch norm included.
    """

    name: str
    height: int
    width: int
    depth: int
    macs: int
    parameters: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, depth)."""
        return self.height, self.width, self.depth


@dataclass(frozen=True)
class Network:
    """A ResNet as a table, without weights.

    >>> from resforward import NETWORKS
    >>> network = NETWORKS["resnet_v2_50"]
    >>> network.parameters, [unit.stride for unit in network.units[:3]]
    (25615849, [1, 1, 2])

    Args:
        name: slim's scope; a full slim end point key starts with it.
        family: the row of values that its units were made from.
        input_channels: of the images.
        stem: the root block, or None (slim's include_root_block=False).
        units: in order, across all Blocks.
        num_classes: 0 for a network without classifier.
        global_pool: average over height and width before the classifier.
        epsilon: of batch norm.
        output_stride: the one asked for, or None for the nominal one.
    """

    name: str
    family: Family
    input_channels: int
    stem: Stem | None
    units: tuple[Unit, ...]
    num_classes: int
    global_pool: bool
    epsilon: float
    output_stride: int | None = None

    def __post_init__(self) -> None:
        # However it was made, by `resnet`, `load` or dataclasses.replace.
        wrong = []
        if not _is_whole(self.num_classes) or self.num_classes < 0:
            wrong.append(f"num_classes is {self.num_classes!r}, expected a whole number; 0 leaves the classifier out")
        if not _is_whole(self.input_channels) or self.input_channels < 1:
            wrong.append(f"input_channels is {self.input_channels!r}; an image has at least one channel")
        if not isinstance(self.global_pool, bool):
            wrong.append(f"global_pool is {self.global_pool!r}, expected True or False")
        if not (isinstance(self.epsilon, int | float) and 0 < self.epsilon < math.inf):
            wrong.append(f"epsilon is {self.epsilon!r}, expected a number above 0")
        wrong += _wrong_root_block(self.stem) if self.stem else []
        if self.family.weight_epsilon is not None and not 0 < self.family.weight_epsilon < math.inf:
            wrong.append(f"epsilon of weights is {self.family.weight_epsilon!r}, expected a number above 0")
        for unit in self.units:
            if max(unit.stride, *unit.rates) > _LARGEST_STEP:
                wrong.append(f"{unit.name}: stride {unit.stride}, rate {unit.rate}; at most {_LARGEST_STEP}")
        if wrong:
            raise NetworkError(f"{self.name} is no network", found=wrong)

    @functools.cached_property
    def stem_convs(self) -> tuple[Conv, ...]:
        """The root block's convolutions, in order."""
        if self.stem is None:
            return ()
        rows, depth_in = [], self.input_channels
        for place, depth in enumerate(self.stem.widths, start=1):
            name = "conv1" if len(self.stem.widths) == 1 else f"conv1/conv{place}"
            kernel, stride = (self.stem.kernel, self.stem.stride) if place == 1 else (3, 1)
            inner = place < len(self.stem.widths)
            normed = self.family.norms[0] if inner else self.stem.norm
            rows.append(
                Conv(
                    name,
                    kernel,
                    depth_in,
                    depth,
                    stride=stride,
                    bias=self.stem.bias,
                    norm=self.family.norm if normed else None,
                    relu=inner or self.stem.relu,
                )
            )
            depth_in = depth
        return tuple(rows)

    @functools.cached_property
    def logits(self) -> Conv | None:
        """The classifier, a 1x1 convolution with bias, where there is one."""
        if not self.num_classes:
            return None
        return Conv("logits", 1, self.depth, self.num_classes, bias=True)

    @property
    def depth(self) -> int:
        """Channels of the last unit: the length of an embedding."""
        return self.units[-1].depth

    @functools.cached_property
    def variables(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all variables: slim's, without the scope."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.family.input_norm:
            shapes |= norm_variables(INPUT_NORM, self.input_channels)
        for conv in self.stem_convs:
            shapes |= conv.variables
        for unit in self.units:
            shapes |= unit.variables
        if self.family.final_norm:
            shapes |= norm_variables("postnorm", self.depth, self.family.norm)
        if self.logits:
            shapes |= self.logits.variables
        return shapes

    @property
    def parameters(self) -> int:
        """Values of all variables, statistics of batch norm included."""
        return sum(map(_count, self.variables.values()))

    @functools.cached_property
    def blocks(self) -> dict[str, tuple[Unit, ...]]:
        """Units by Block."""
        grouped: dict[str, list[Unit]] = {}
        for unit in self.units:
            grouped.setdefault(unit.block, []).append(unit)
        return {name: tuple(units) for name, units in grouped.items()}

    @functools.cached_property
    def uncomputed(self) -> tuple[str, ...]:
        """Parts that a table can describe and neither the engine nor a plain graph computes.

        >>> NETWORKS["resnet_v2_50"].uncomputed
        ()
        """
        parts = ["batch norm on an image that no root block reads"] if self.family.input_norm and not self.stem else []
        for unit in self.units:
            if unit.shortcut == "zero_pad":
                parts.append(f"{unit.name}: shortcut {unit.shortcut}")
            convs = filter(None, (*unit.convs, unit.projection))
            parts += [f"{conv.name}: group norm without ReLU" for conv in convs if conv.norm == "gn" and not conv.relu]
            if unit.post == "norm_relu":
                parts.append(f"{unit.name}: {unit.post} after the sum")
        return tuple(parts)

    def end_points(self, height: int, width: int) -> dict[str, EndPoint]:
        """Every named tensor of a forward pass over one image, in the order of computation.

        >>> NETWORKS["resnet_v2_50"].end_points(224, 224)["block1"].shape
        (28, 28, 256)

        Args:
            height, width: of the image, pixels.

        Raises:
            NetworkError: an image of no pixels.
        """
        if height < 1 or width < 1:
            raise NetworkError(f"an image of {height} x {width} pixels has nothing to compute")
        return {point.name: point for point in self._trace(height, width)}

    def canonical(self, asked: Iterable[str]) -> dict[str, str]:
        """The canonical name of each end point, asked for by that, its full slim key or another library's name.

        >>> NETWORKS["resnet_v2_50"].canonical(["resnet_v2_50/block1", "logits"])
        {'resnet_v2_50/block1': 'block1', 'logits': 'logits'}
        >>> NETWORKS["resnet_v2_50"].canonical("layer1.0.act1")
        {'layer1.0.act1': 'block1/unit_1/bottleneck_v2/conv1'}

        Args:
            asked: names; one may be a string.

        Raises:
            EndPointError: names that are none of this network's; the nearest are suggested.
        """
        known = self._end_point_names
        canonical, wrong = {}, []
        for name in [asked] if isinstance(asked, str) else asked:
            short = str(name).removeprefix(f"{self.name}/")
            if name in known or short in known:
                canonical[name] = name if name in known else short
            elif name in self._aliases.known:
                canonical[name] = self._aliases.known[name]
            elif name in self._aliases.folded:
                after = self._aliases.folded[name]
                wrong.append(f"`{name}` is computed together with what follows it; that is `{after}`")
            else:
                # `block3/unit6` is nearer to `block3/unit_6` than to its full name.
                units = {unit.name.rpartition("/")[0]: unit.name for unit in self.units}
                close = nearest(short, [*known, *units])
                for unit, full in units.items():
                    close = close.replace(f"`{unit}`", f"`{full}`")
                wrong.append(f"`{name}`" + (f"; {close}" if close else ""))
        if wrong:
            raise EndPointError(
                f"{self.name} has no such end point",
                found=wrong,
                help=f"it has {len(known)}: `model.end_points`, or `resforward inspect MODEL --end-points`",
            )
        return canonical

    @functools.cached_property
    def _aliases(self) -> Aliases:
        return aliases(self)

    @functools.cached_property
    def _end_point_names(self) -> tuple[str, ...]:
        return tuple(self.end_points(1, 1))  # the same at every size

    @functools.cached_property
    def stages(self) -> dict[int, str]:
        """The last unit's end point at each stride, pixels of the image for one of its own: a feature pyramid.

        >>> NETWORKS["resnet_v2_50"].stages[8]
        'block2/unit_3/bottleneck_v2'

        Networks whose Blocks begin with their strides, as torch's, have whole Blocks here.
        """
        stride = self.stem.stride * (self.stem.pool.stride if self.stem.pool else 1) if self.stem else 1
        stages = {}
        for unit in self.units:
            stride *= unit.stride
            stages[stride] = unit.name
        return stages

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds of one image's forward pass."""
        units = {unit.name for unit in self.units} | set(self.blocks)
        return sum(p.macs for name, p in self.end_points(height, width).items() if name not in units)

    def _trace(self, h: int, w: int) -> Iterator[EndPoint]:
        def conv_point(conv: Conv, h: int, w: int) -> EndPoint:
            h, w = conv.output(h), conv.output(w)
            return EndPoint(conv.name, h, w, conv.depth, conv.macs(h, w), _total(conv.variables))

        for conv in self.stem_convs:
            yield (point := conv_point(conv, h, w))
            h, w = point.height, point.width
        if self.stem and self.stem.pool:
            h, w = self.stem.pool.geometry(h)[0], self.stem.pool.geometry(w)[0]
            yield EndPoint("pool1", h, w, self.stem.widths[-1], 0, 0)
        for block, units in self.blocks.items():
            block_macs = block_parameters = 0
            for unit in units:
                own = []
                if unit.pre != "none":
                    norm = _total(norm_variables("", unit.depth_in, unit.norm))
                    own.append(EndPoint(f"{unit.name}/preact", h, w, unit.depth_in, 0, norm))
                if unit.projection:
                    pooled = unit.stride if unit.shortcut == "avg_projection" else 1
                    own.append(conv_point(unit.projection, -(-h // pooled), -(-w // pooled)))
                for conv in unit.convs:
                    own.append(conv_point(conv, h, w))
                    h, w = own[-1].height, own[-1].width
                yield from own
                macs, parameters = sum(p.macs for p in own), sum(p.parameters for p in own)
                yield EndPoint(unit.name, h, w, unit.depth, macs, parameters)
                block_macs, block_parameters = block_macs + macs, block_parameters + parameters
            yield EndPoint(block, h, w, units[-1].depth, block_macs, block_parameters)
        if self.family.final_norm:
            yield EndPoint("postnorm", h, w, self.depth, 0, _total(norm_variables("", self.depth, self.family.norm)))
        if self.global_pool:
            h = w = 1
            yield EndPoint("global_pool", h, w, self.depth, 0, 0)
        if self.logits:
            yield conv_point(self.logits, h, w)
            yield EndPoint("predictions", h, w, self.num_classes, 0, 0)


_LARGEST_STEP = 1 << 15  # of strides and rates, pixels: more than any image has, and products stay far from overflow


_LARGEST_KERNEL = 64  # of the root block, pixels: published ones have 7, and a pool's work grows with its square


def _wrong_root_block(stem: Stem) -> list[str]:
    """What is wrong with a root block's numbers, which no shape of a variable would show."""
    limits = [("kernel", stem.kernel, _LARGEST_KERNEL), ("stride", stem.stride, _LARGEST_STEP)]
    if stem.pool:
        limits += [("pool's kernel", stem.pool.kernel, _LARGEST_KERNEL)]
        limits += [("pool's stride", stem.pool.stride, _LARGEST_STEP)]
    wrong = [
        f"the root block's {what} is {value!r}, expected 1 to {most}"
        for what, value, most in limits
        if not _is_whole(value) or not 1 <= value <= most
    ]
    if not stem.widths or not all(_is_whole(width) and width > 0 for width in stem.widths):
        wrong.append(f"the root block's widths are {stem.widths!r}, expected one or more positive integers")
    return wrong


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)


def _total(variables: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(_count, variables.values()))
