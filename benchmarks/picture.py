"""Bars as SVG, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PANEL = 400  # pixels wide
LABEL = 128  # of it, for the names
NUMBER = 46  # and for the figures
ROW, TITLE, GAP, MARGIN = 24, 34, 26, 16

STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.note { fill: #59636e; font-size: 12px }
.bar { fill: #afb8c1 }
.ours { fill: #0969da }
.spread { stroke: #1f2328; stroke-opacity: .55; stroke-width: 1.5 }
.strong { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #4493f8 }
  .spread { stroke: #f0f6fc }
}"""


@dataclass(frozen=True)
class Bar:
    """One engine: its median, its quartiles, and whether it is ours."""

    name: str
    value: float
    low: float
    high: float
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars that share a scale."""

    title: str
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel], note: str) -> str:
    """An SVG of panels, two in a row."""
    rows = [panels[start : start + 2] for start in range(0, len(panels), 2)]
    parts, top = [], MARGIN
    for row in rows:
        for column, panel in enumerate(row):
            parts.append(_panel(panel, MARGIN + column * (PANEL + GAP), top))
        top += TITLE + ROW * max(len(panel.bars) for panel in row) + GAP
    width, height = 2 * (PANEL + MARGIN) + GAP, top + 4
    parts.append(f'<text class="note" x="{MARGIN}" y="{top - 4}">{escape(note)}; thin lines: quartiles</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' role="img" aria-label="{escape(note)}">',
            f"<style>{STYLE}\n</style>",
            *parts,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, left: int, top: int) -> str:
    scale = (PANEL - LABEL - NUMBER) / max(bar.high for bar in panel.bars)
    lines = [f'<text class="title" x="{left}" y="{top + 14}">{escape(panel.title)}</text>']
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + ROW * number
        middle, start = y + (ROW - 6) / 2, left + LABEL
        strong = ' class="strong"' if bar.ours else ""
        beside = start + scale * max(bar.high, bar.value) + 6
        lines += [
            f'<text{strong} x="{start - 8}" y="{y + 13.5}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect class="{"ours" if bar.ours else "bar"}" x="{start}" y="{y}" width="{scale * bar.value:.1f}"'
            f' height="{ROW - 6}" rx="2"/>',
            f'<line class="spread" x1="{start + scale * bar.low:.1f}" x2="{start + scale * bar.high:.1f}"'
            f' y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text{strong} x="{beside:.1f}" y="{y + 13.5}">{bar.value:.1f}</text>',
        ]
    return "\n".join(lines)
