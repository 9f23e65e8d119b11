"""The table of `resforward bench --per-unit`."""

from __future__ import annotations

import statistics
from itertools import groupby
from typing import TYPE_CHECKING

from .console import columns, facts, out, printable

if TYPE_CHECKING:
    from ..bench import Measurement
    from ..per_unit import UnitTime


def print_units(result: Measurement) -> None:
    """Write where the time of a pass goes; what the columns are is said by `resforward bench --help`."""
    from ..per_unit import total

    whole = total("total", result.units)
    slowest = max(result.units, key=lambda row: row.seconds)
    most_lost = max(result.units, key=lambda row: row.seconds_lost(result.peak))

    def cells(row: UnitTime, name: str) -> list[str]:
        work = [f"{row.gflops:.0f}", f"{100 * row.gflops / result.peak:.0f}%"] if row.macs else ["", ""]
        marks = [mark for mark, marked in (("slowest", slowest), ("most lost", most_lost)) if row is marked]
        return [
            printable(name),
            f"{1e3 * row.seconds:.{places}f}",
            f"{100 * row.seconds / whole.seconds:.1f}%",
            *work,
            f"{1e3 * row.seconds_lost(result.peak):z.{places}f}",
            f"{1e-6 * (row.weight_bytes + row.activation_bytes):.1f}",
            ", ".join(marks),
        ]

    places = 1 if whole.seconds >= 1 else 2 if whole.seconds >= 0.01 else 3  # of a millisecond
    rows = [["", "ms", "share", "GFLOP/s", "of peak", "lost ms", "MB", ""]]
    bold = {"total"}
    for block, group in groupby(result.units, key=lambda row: row.block):
        units = list(group)
        if block is None:
            rows += [cells(row, row.name) for row in units]
            continue
        bold.add(printable(block))
        rows.append(cells(total(block, units), block))
        rows += [cells(row, f"  {row.name.removeprefix(f'{block}/').rpartition('/')[0]}") for row in units]
    rows.append(cells(whole, whole.name))
    out()
    columns(rows, bold, right=6, last=1)
    durations = result.timing.durations
    whole_step = f"{1e3 * statistics.median(durations):.{places}f}"
    many = len(durations) > 1
    medians = f"medians of {len(durations)} steps; a whole one takes" if many else "one step; the whole of it takes"
    out()
    facts(
        [
            ("ms", f"{medians} {whole_step}, with the call itself{' and what disturbed it' if many else ''}"),
            ("", "convolutions of two units that are computed together share their time by multiply-adds"),
            ("lost ms", "beyond its multiply-adds at the peak"),
            ("MB", "weights and feature maps that are read from memory and written there"),
        ]
    )
