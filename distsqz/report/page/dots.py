"""Figures with a dot a row: bytes and step times on logarithmic scales, links on a linear one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distsqz.report.page.numbers import NO_BREAK_SPACE, scaled
from distsqz.report.page.rows import CHARACTER, RowText, row_text
from distsqz.report.page.scales import Scale, linear_scale, log_scale

MARGIN = 8
"""Pixels left of the first tick and right of the last."""
TOP = 26
"""Pixels that the labels of the ticks take."""
BELOW_TEXT = 8
GAP = 14


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A row of the figure before it is drawn."""

    label: str
    parts: tuple[Markup, ...]
    """Its numbers, as `Numbers.svg` gives them."""
    value: float | None
    """Where the dot stands; None draws none."""
    hollow: bool = False
    """Whether the value was predicted instead of measured."""
    interval: tuple[float, float] | None = None
    limit: float | None = None
    """What the value could be at most, drawn as a mark of its own."""


@dataclass(frozen=True)
class Tick:
    """A line of the grid and its label."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True)
class DotRow:
    """A row as it is drawn: places in pixels."""

    text: RowText
    y: float
    line_y: float
    x: float | None
    hollow: bool
    interval: tuple[float, float] | None
    limit: float | None


@dataclass(frozen=True)
class DotFigure:
    """The figure as it is drawn."""

    width: int
    height: float
    left: float
    ticks: list[Tick]
    rows: list[DotRow]


def dot_figure(dots: Sequence[Dot], unit: str, width: int, log: bool) -> DotFigure:
    """Draws a row for each dot, `width` pixels wide, on a scale of `unit` (B, s or bit/s)."""
    values = [
        value for dot in dots for value in (dot.value, dot.limit, *(dot.interval or ())) if value is not None
    ]
    scale = (log_scale if log else linear_scale)(values, MARGIN, width - MARGIN)
    y: float = TOP
    rows = []
    for dot in dots:
        text = row_text(dot.label, dot.parts, width)
        rows.append(_row(dot, text, y, scale, log))
        y += text.height + BELOW_TEXT + GAP
    return DotFigure(width, y, MARGIN, ticks_of(scale, unit), rows)


def ticks_of(scale: Scale, unit: str) -> list[Tick]:
    """The ticks of a scale; labels stay within it, and one that would touch another is left out."""
    ticks = []
    free_from = 0.0
    for value in scale.ticks():
        x, label = scale(value), _tick_label(value, unit)
        label_width = len(label) * CHARACTER
        if x - label_width / 2 < scale.left:
            anchor, start = "start", x
        elif x + label_width / 2 > scale.right:
            anchor, start = "end", x - label_width
        else:
            anchor, start = "middle", x - label_width / 2
        if start < free_from:
            label = ""
        else:
            free_from = start + label_width + CHARACTER
        ticks.append(Tick(x, label, anchor))
    return ticks


def _row(dot: Dot, text: RowText, y: float, scale: Scale, log: bool) -> DotRow:
    drawn = dot.value is not None and (dot.value > 0 or not log)
    return DotRow(
        text=text,
        y=y,
        line_y=y + text.height + BELOW_TEXT / 2,
        x=scale(dot.value) if drawn and dot.value is not None else None,
        hollow=dot.hollow,
        interval=(scale(dot.interval[0]), scale(dot.interval[1])) if dot.interval else None,
        limit=None if dot.limit is None else scale(dot.limit),
    )


def _tick_label(value: float, unit: str) -> str:
    """`100 ms` instead of `100.0 ms`: ticks are round."""
    if unit == "%":
        return f"{100 * value:.0f}%"
    number, _, rest = scaled(value, unit).partition(NO_BREAK_SPACE)
    return f"{float(number.replace(',', '')):g}{NO_BREAK_SPACE}{rest}"
