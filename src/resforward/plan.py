"""From a network's table to the steps that the core runs: what is computed, where it lies, what is never stored.

    values   what the steps write and read: feature maps (n, h, w, c)
    steps    load, conv, winograd, max_pool, mean, store, each with up to three outputs: linear, out and preact
    arena    one buffer; values whose lives do not overlap share its bytes

A step's outputs are written only where something reads them, and nothing after the last wanted end point is computed.
The outputs that stay are computed the same way whoever wants them, so asking for one changes no bit of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from . import _core
from .errors import NetworkError
from .network import INPUT_NORM, Conv, Network, Unit

CHAIN_PIXELS = 98  # fewer are not worth a chain: its items would leave threads without work

Tile = tuple[int, int]  # outputs of a Winograd tile along y and x
Form = tuple[str, Tile | Literal["rows"] | None]  # a convolution's name; its Winograd tile, "rows", or neither

# Tiles by stride and the least number of output pixels. Measured with batches of 1 and 8: larger ones save more
# products and have more weights, which a small map cannot make up for.
_WINOGRAD_TILES = {
    1: ((225, (4, 4)), (121, (4, 3)), (81, (3, 3)), (16, (2, 2))),
    2: ((100, (4, 4)), (16, (2, 2))),
}
_WINOGRAD_DEPTH = 16  # of input and output, a plane: with less, lanes stay empty


@dataclass(eq=False)
class Value:
    """A feature map between steps; `floats` where it is not laid out in planes."""

    n: int
    h: int
    w: int
    c: int
    floats: int = 0
    last: int = -1  # the step that reads it last
    offset: int = -1
    slot: int | None = None  # of the scratch, where one chain alone writes and reads it: it has no place in the arena

    @property
    def size(self) -> int:
        """Floats in the arena."""
        return self.floats or self.tensor().floats

    def tensor(self) -> _core.Tensor:
        """The core's description of it."""
        return _core.Tensor(self.offset, self.n, self.h, self.w, self.c, -1 if self.slot is None else self.slot)


@dataclass(eq=False)
class Step:
    """One step and all the outputs that it could have.

    Args:
        kind: of the core's steps. name: the end point or variable scope that it computes.
        inputs: values that it reads.
        linear, out, preact: its outputs: the plain result, the one after sum and ReLU, and the next norm of that.
        relu: whether `out` ends in ReLU. norm: scope of the batch norm that makes `preact` or that images are read
            with, or of a group norm.
        conv: the row of its convolution. shortcut: what is added to it, read with shortcut_stride.
        tile: of a Winograd convolution.
        pads: of a max-pool, (y, x). stride: of an average pool, and the side of its windows.
        output: index of the array that a store fills. softmax: over its channels first.
        then: 1x1 convolutions of what it reads or writes, computed with it for a block of pixels at a time; or the
            max-pool of what it writes, for some rows.
    """

    kind: Literal[
        "load", "load_rows", "conv", "conv_rows", "winograd", "max_pool", "avg_pool", "group_norm", "mean", "store"
    ]  # fmt: skip
    name: str
    inputs: list[Value] = field(default_factory=list)
    linear: Value | None = None
    out: Value | None = None
    preact: Value | None = None
    relu: bool = False
    norm: str = ""
    conv: Conv | None = None
    shortcut: Value | None = None
    shortcut_stride: int = 1
    tile: Tile | None = None
    pads: tuple[int, int] = (0, 0)
    stride: int = 1
    output: int = -1
    softmax: bool = False
    then: list[Step] = field(default_factory=list)

    @property
    def chain(self) -> list[Step]:
        """Itself and what is computed with it."""
        return [self, *self.then]

    @property
    def form(self) -> Form:
        """What its convolution's weights are packed for."""
        assert self.conv is not None
        return self.conv.name, "rows" if self.kind == "conv_rows" else self.tile

    @property
    def reads(self) -> list[Value]:
        """Everything that it reads."""
        return self.inputs + ([self.shortcut] if self.shortcut else [])

    @property
    def writes(self) -> list[Value]:
        """Everything that it writes."""
        return [value for value in (self.linear, self.out, self.preact) if value]


@dataclass
class Layout:
    """The steps of one plan, which stay when the core has them: `bench --per-unit` and tests read them."""

    steps: list[Step]
    arena_floats: int
    shapes: dict[str, tuple[int, int, int, int]]  # of the wanted end points


def winograd_tile(row: Conv, height: int, width: int) -> Tile | None:
    """Outputs of a convolution's Winograd tiles along y and x, None where it is computed directly: by its shape alone.

    >>> winograd_tile(Conv("conv2", 3, 64, 64), 56, 56), winograd_tile(Conv("conv3", 1, 64, 256), 56, 56)
    ((4, 4), None)

    Batch and threads have no say: both forms round differently, and bits must not depend on them.

    Args:
        row: the convolution.
        height, width: of its input.
    """
    if (row.kernel, row.rate) != (3, 1) or min(row.depth_in, row.depth) < _WINOGRAD_DEPTH:
        return None
    pixels = row.output(height) * row.output(width)
    return next((tile for least, tile in _WINOGRAD_TILES.get(row.stride, ()) if pixels >= least), None)


def lay_out(
    network: Network, batch: int, height: int, width: int, wanted: Iterable[str], *, winograd: bool = True
) -> Layout:
    """Decide the steps and the buffers for one input shape and one set of end points.

    >>> layout = lay_out(NETWORKS["resnet_v2_50"], 1, 224, 224, ["block1"])
    >>> [step.name for step in layout.steps][-1], layout.shapes["block1"]
    ('block1', (1, 28, 28, 256))

    Args:
        network: the table.
        batch, height, width: of the images, which have network.input_channels channels.
        wanted: canonical end point names.
        winograd: whether convolutions for which it is faster are computed by Winograd's method.

    Raises:
        NetworkError: a network with parts that the core has no steps for.
    """
    names = list(dict.fromkeys(wanted))
    steps, found = _trace(network, batch, height, width, winograd)
    stores = []
    for index, name in enumerate(names):
        value = found["logits" if name == "predictions" else name]
        stores.append(Step("store", name, [value], output=index, softmax=name == "predictions"))
    steps = _chained(_needed(steps, stores))
    arena = _place(steps)
    shapes = {step.name: (v.n, v.h, v.w, v.c) for step in stores for v in step.inputs}
    return Layout(steps, arena, shapes)


def _trace(network: Network, n: int, h: int, w: int, winograd: bool) -> tuple[list[Step], dict[str, Value]]:
    """All steps of the whole network with all their outputs, and the value of every end point."""
    if network.uncomputed:
        raise NetworkError(f"{network.name} has parts that the engine has no steps for", found=network.uncomputed)
    steps: list[Step] = []
    points: dict[str, Value] = {}

    def add(step: Step) -> Step:
        steps.append(step)
        return step

    def convolve(
        row: Conv,
        x: Value,
        shortcut: Value | None = None,
        shortcut_stride: int = 1,
        *,
        relu: bool = False,  # after the sum
        rows: bool = False,
    ) -> Step:
        shape = (x.n, row.output(x.h), row.output(x.w), row.depth)
        grouped = row.norm == "gn"
        tile = winograd_tile(row, x.h, x.w) if winograd and not rows else None
        step = add(
            Step(
                "conv_rows" if rows else "winograd" if tile else "conv",
                row.name,
                [x],
                linear=Value(*shape) if shortcut else None,
                out=Value(*shape),
                relu=relu or (row.relu and not grouped),
                conv=row,
                shortcut=shortcut,
                shortcut_stride=shortcut_stride,
                tile=tile,
            )
        )
        return group_norm(step, row.norm_scope) if grouped else step

    def group_norm(step: Step, scope: str) -> Step:
        """Group norm and ReLU: of statistics that are known when all of a map is there, so a step of its own."""
        x = _out(step)
        return add(Step("group_norm", scope, [x], out=Value(x.n, x.h, x.w, x.c), norm=scope))

    def avg_pool(x: Value, stride: int, name: str) -> Value:
        pooled = Value(x.n, -(-x.h // stride), -(-x.w // stride), x.c)
        return _out(add(Step("avg_pool", name, [x], out=pooled, stride=stride)))

    def normed(step: Step, scope: str) -> Value:
        """The norm and ReLU of a step's result: of batch norm that step's second output."""
        if network.family.norm == "gn":
            return _out(group_norm(step, scope))
        x = _out(step)
        step.norm = scope
        step.preact = Value(x.n, x.h, x.w, x.c)
        return step.preact

    if network.stem is None:
        last = add(Step("load", "images", out=Value(n, h, w, network.input_channels)))
    else:
        first = network.stem_convs[0]
        margin = first.kernel // 2
        # Whole cache lines, as every other value.
        floats = n * (h + 2 * margin) * (w + 2 * margin) * network.input_channels
        rows = Value(n, h, w, network.input_channels, floats=-(-floats // 16) * 16)
        scope = INPUT_NORM if network.family.input_norm else ""
        add(Step("load_rows", "images", out=rows, conv=first, norm=scope))
        last = convolve(first, rows, rows=True)
        points[first.name] = _out(last)
        for row in network.stem_convs[1:]:
            last = convolve(row, _out(last))
            points[row.name] = _out(last)
        if pool := network.stem.pool:
            x = _out(last)
            (out_h, pad_y), (out_w, pad_x) = pool.geometry(x.h), pool.geometry(x.w)
            last = add(Step("max_pool", "pool1", [x], out=Value(n, out_h, out_w, x.c), pads=(pad_y, pad_x)))
            points["pool1"] = _out(last)

    for unit in network.units:
        last = _unit(unit, last, convolve, avg_pool, normed, points)
        points[unit.block] = _out(last)
    features = _out(last)
    if network.family.final_norm:
        points["postnorm"] = features = normed(last, "postnorm")
    if network.global_pool:
        pooled = Value(n, 1, 1, features.c)
        add(Step("mean", "global_pool", [features], out=pooled))
        points["global_pool"] = features = pooled
    if network.logits:
        points["logits"] = _out(convolve(network.logits, features))
    return steps, points


def _unit(
    unit: Unit,
    before: Step,
    convolve: Callable[..., Step],
    avg_pool: Callable[[Value, int, str], Value],
    normed: Callable[[Step, str], Value],
    points: dict[str, Value],
) -> Step:
    """One residual unit; its sum is the epilogue of its last convolution."""
    raw = _out(before)
    x = raw
    if unit.pre != "none":
        points[f"{unit.name}/preact"] = x = normed(before, f"{unit.name}/preact")
    shortcut, shortcut_stride = raw, unit.stride
    if unit.projection:
        projected = x if unit.pre == "both" else raw
        if unit.shortcut == "avg_projection":
            projected = avg_pool(projected, unit.stride, f"{unit.name}/shortcut/pool")
        step = convolve(unit.projection, projected)
        points[unit.projection.name] = shortcut = _out(step)
        shortcut_stride = 1
    for row in unit.convs[:-1]:
        x = _out(convolve(row, x))
        points[row.name] = x
    last = convolve(unit.convs[-1], x, shortcut, shortcut_stride, relu=unit.post == "relu")
    assert last.linear is not None
    points[unit.convs[-1].name] = last.linear
    points[unit.name] = _out(last)
    return last


def _out(step: Step) -> Value:
    assert step.out is not None
    return step.out


def _needed(steps: list[Step], stores: list[Step]) -> list[Step]:
    """Only the steps that lead to a store, only the outputs that somebody reads, each store after what it stores."""
    wanted = {id(value) for store in stores for value in store.reads}
    kept = []
    for step in reversed(steps):
        step.linear = step.linear if id(step.linear) in wanted else None
        step.out = step.out if id(step.out) in wanted else None
        step.preact = step.preact if id(step.preact) in wanted else None
        if not step.out and not step.preact:
            step.shortcut = None  # `linear` is what comes before the sum
        if step.writes:
            kept.append(step)
            wanted |= {id(value) for value in step.reads}
    ordered = []
    for step in reversed(kept):
        ordered.append(step)
        written = {id(value) for value in step.writes}
        ordered += [store for store in stores if id(store.inputs[0]) in written]
    return ordered


def _chained(steps: list[Step]) -> list[Step]:
    """Let steps be computed together with the convolution whose result they read: 1x1 convolutions, and a max-pool.

    What nobody else reads is never stored: the pre-activation between two units is gone before it has left the cache,
    and so is the root block's map before its pool, the largest of a network.
    """
    readers = Counter(id(value) for step in steps for value in step.reads)
    ordered: list[Step] = []
    head: Step | None = None
    for step in steps:
        if head and (_follows(head, step) or _pools(head, step, readers)):
            head.then.append(step)
            continue
        if step.kind != "store":
            head = step
        ordered.append(step)
    for step in ordered:
        kept = {id(value) for other in ordered if other is not step for link in other.chain for value in link.reads}
        kept |= {id(link.shortcut) for link in step.chain}
        kept |= {id(link.out) for link in step.chain if link.linear}  # one plane pitch serves both
        inner = [value for link in step.chain for value in link.writes if id(value) not in kept]
        for slot, value in enumerate(inner):
            value.slot = slot
    return ordered


def _follows(head: Step, step: Step) -> bool:
    """Whether a 1x1 convolution reads a block of pixels that the chain of another has just read or written.

    With a stride it reads some of what the chain wrote. What the chain's head reads it leaves alone: together they
    would read all the pixels, and the strided one alone reads few.
    """
    if step.kind != "conv" or head.kind != "conv" or step.conv is None or head.conv is None:
        return False
    x = step.inputs[0]
    if step.conv.kernel != 1 or head.conv.kernel != 1 or x.n * x.h * x.w < CHAIN_PIXELS:
        return False
    if x in head.inputs:
        return head.conv.stride == step.conv.stride == 1
    written = head.writes[0]  # a strided follower's has fewer pixels
    return (x.h, x.w) == (written.h, written.w) and any(x in link.writes for link in head.chain)


def _pools(head: Step, step: Step, readers: Mapping[int, int]) -> bool:
    """Whether a max-pool is the only reader of the root block's convolution, which writes nothing else."""
    if step.kind != "max_pool" or head.kind != "conv_rows" or head.then:
        return False
    return head.writes == step.inputs and readers[id(step.inputs[0])] == 1


def _place(steps: list[Step]) -> int:
    """Give every value an offset in the arena, and return the arena's size.

    It is the lowest that is free for the value's whole life, or, of a sum, that of the shortcut which it replaces.
    """
    for index, step in enumerate(steps):
        for link in step.chain:
            for value in link.writes:
                value.last = index
            for value in link.reads:
                value.last = index
    arena = 0
    live: list[Value] = []
    for index, step in enumerate(steps):
        live = [value for value in live if value.last >= index]
        for link in step.chain:
            replaced = _replaced(link, step, index)
            for value in link.writes:
                if value.slot is not None:
                    continue
                value.offset = replaced.offset if replaced and value is link.out else _free(live, value.size)
                live.append(value)
                arena = max(arena, value.offset + value.size)
    return arena


def _free(live: list[Value], size: int) -> int:
    """The lowest offset of so many floats that none of the live values lies on."""
    offset = 0
    for other in sorted(live, key=lambda value: value.offset):
        if other.offset - offset >= size:
            break
        offset = max(offset, other.offset + other.size)
    return offset


def _replaced(link: Step, step: Step, index: int) -> Value | None:
    """The shortcut whose place a link's sum takes, if that step is the last to read it, and the sum alone.

    That halves the memory traffic of a sum: each value is read by the tile that overwrites it.
    """
    shortcut = link.shortcut
    if shortcut is None or link.shortcut_stride != 1 or shortcut.last != index:
        return None
    reads = sum(value is shortcut for other in step.chain for value in other.reads)
    return shortcut if reads == 1 else None
