"""Where the time of a forward pass goes: the times of its steps, summed by residual unit.

A row is the root block, a unit or the head. Most of a plan's steps belong to one row. The time of a chain whose
convolutions belong to two is shared out by their multiply-adds; its bytes are those that each convolution moves.
Here a step is one of a plan; what `resforward bench` calls a step is a pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .network import Conv, Network
from .plan import Layout, Step, Value

# One pass: a layout for each part of the batch, with the seconds of its steps; `Model.step_times` makes it.
Pass = Sequence[tuple[Layout, npt.NDArray[np.float64]]]

ROOT, HEAD = "root block", "head"
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class UnitTime:
    """One row: a residual unit, the root block or the head, or a sum of rows.

    >>> row = UnitTime("block1/unit_1/bottleneck_v2", "block1", 0.5, 10**9, 9, 400)
    >>> row.gflops, row.seconds_lost(peak=8.0)
    (4.0, 0.25)

    Args:
        name: the unit's end point, or "root block" or "head". block: the Block it belongs to, if it is a unit.
        seconds: of one batch. macs: multiply-adds of it, of the convolutions as written.
        weight_bytes: of its convolutions, once each for every part that a large batch runs in.
        activation_bytes: of the feature maps that its steps read from and write to memory, each once a step.
    """

    name: str
    block: str | None
    seconds: float
    macs: int
    weight_bytes: int
    activation_bytes: int

    @property
    def gflops(self) -> float:
        """Two operations for each multiply-add; 0 for no time."""
        return 2e-9 * self.macs / self.seconds if self.seconds else 0.0

    def seconds_lost(self, peak: float) -> float:
        """What it takes beyond its multiply-adds at the peak, in GFLOP/s; below 0 where a kernel saves enough."""
        return self.seconds - 2e-9 * self.macs / peak

    def as_dict(self, seconds: float, peak: float) -> dict[str, Any]:
        """For JSON, as a part of `seconds`; the keys are stable."""
        return {
            "name": self.name,
            "block": self.block,
            "seconds": self.seconds,
            "share": self.seconds / seconds,
            "seconds_lost": self.seconds_lost(peak),
            "macs": self.macs,
            "gflops": self.gflops,
            "peak_share": self.gflops / peak,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
        }


def total(name: str, rows: Sequence[UnitTime]) -> UnitTime:
    """The sum of rows.

    >>> total("total", [UnitTime("a", None, 0.5, 1, 2, 3), UnitTime("b", None, 0.25, 10, 20, 30)])
    UnitTime(name='total', block=None, seconds=0.75, macs=11, weight_bytes=22, activation_bytes=33)
    """
    return UnitTime(
        name,
        None,
        sum(row.seconds for row in rows),
        sum(row.macs for row in rows),
        sum(row.weight_bytes for row in rows),
        sum(row.activation_bytes for row in rows),
    )


def per_unit(network: Network, size: tuple[int, int], passes: Sequence[Pass]) -> tuple[UnitTime, ...]:
    """Sum the median times of the steps by row: the root block, every residual unit, the head.

    >>> model = build("fashion")
    >>> rows = per_unit(model.network, (28, 28), [model.step_times(np.zeros((2, 28, 28, 1), np.float32))])
    >>> [row.name for row in rows][:2], sum(row.macs for row in rows) == 2 * model.network.macs(28, 28)
    (['root block', 'block1/unit_1/bottleneck_v2'], True)

    Args:
        network: what ran. size: height and width of its images, pixels.
        passes: at least one, of the same batch.

    Raises:
        InputError: no passes.
    """
    if not passes:
        raise InputError("no pass was timed")
    blocks: dict[str, str | None] = {ROOT: None, **{unit.name: unit.block for unit in network.units}, HEAD: None}
    root = {"images", "pool1", *(conv.name for conv in network.stem_convs)}
    macs = {name: point.macs for name, point in network.end_points(*size).items()}
    sums = {name: _Sum() for name in blocks}
    for part, (layout, _) in enumerate(passes[0]):
        images = next(iter(layout.shapes.values()))[0]
        counted: set[str] = set()  # the first step of a convolution stands for it, if it has several
        medians = np.median([timed[part][1] for timed in passes], axis=0)
        for step, seconds in zip(layout.steps, medians.tolist(), strict=True):
            shares: dict[str, int] = defaultdict(int)
            for link, moved in _moved(step):
                row = _row(link, blocks, root)
                sums[row].activations += _FLOAT * moved
                shares[row] += 0
                if link.conv and link.conv.name not in counted:
                    counted.add(link.conv.name)
                    shares[row] += images * macs[link.conv.name]
                    sums[row].weights += _FLOAT * _weights(link.conv)
            whole = sum(shares.values())
            for row, own in shares.items():
                sums[row].macs += own
                sums[row].seconds += seconds * (own / whole if whole else 1 / len(shares))
    return tuple(
        UnitTime(name, block, sums[name].seconds, sums[name].macs, sums[name].weights, sums[name].activations)
        for name, block in blocks.items()
    )


@dataclass
class _Sum:
    seconds: float = 0.0
    macs: int = 0
    weights: int = 0
    activations: int = 0


def _row(link: Step, blocks: Container[str], root: Container[str]) -> str:
    """By the longest part of its name that says where it belongs; what is neither a unit's nor the root's is last."""
    name = link.conv.name if link.conv else link.name
    while name:
        if name in blocks:
            return name
        if name in root:
            return ROOT
        name = name.rpartition("/")[0]
    return HEAD


def _weights(conv: Conv) -> int:
    return conv.kernel * conv.kernel * conv.depth_in * conv.depth


def _moved(step: Step) -> Iterator[tuple[Step, int]]:
    """Every link of a chain, or a step alone, with the floats that it reads from memory or writes there.

    A value counts for the first that reads or writes it: the next ones find it in the cache.
    """
    known: set[int] = set()
    for link in step.chain:
        moved = 0
        for value in link.reads:
            if id(value) not in known and value.slot is None:
                moved += _read(value, min(_stride(value, other) for other in step.chain if value in other.reads))
            known.add(id(value))
        for value in link.writes:
            moved += value.size if value.slot is None else 0
            known.add(id(value))
        if not link.reads:  # the images themselves
            moved += _array(link.writes[0])
        if not link.writes:  # the result
            moved += _array(link.reads[0])
        yield link, moved


def _stride(value: Value, link: Step) -> int:
    """Of the pixels that it reads: a 1x1 convolution and a shortcut leave the others alone."""
    if value is link.shortcut:
        return link.shortcut_stride
    return link.conv.stride if link.conv and link.conv.kernel == 1 else 1


def _read(value: Value, stride: int) -> int:
    return value.size * (-(-value.h // stride) * -(-value.w // stride)) // (value.h * value.w)


def _array(value: Value) -> int:
    return value.n * value.h * value.w * value.c
