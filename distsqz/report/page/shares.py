"""The figure of where a step's time goes: a bar a cell, cut by what the ranks' time is spent on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from distsqz.report.page.dots import GAP, MARGIN, TOP, Tick, ticks_of
from distsqz.report.page.numbers import Numbers
from distsqz.report.page.rows import RowText, row_text
from distsqz.report.page.scales import Scale
from distsqz.report.tables import CellTable

ORDER = ("data_s", "forward_s", "backward_s", "exposed_comm_s", "wait_s", "optimizer_s", "other_s")
"""Parts of a bar from left to right; waiting stands beside communication."""

BAR, HIDDEN_BAR = 14, 5
"""Heights of a cell's bar and of the bar of its hidden communication, in pixels."""


@dataclass(frozen=True)
class Part:
    """A part of a bar: its place in pixels."""

    name: str
    x: float
    width: float


@dataclass(frozen=True)
class ShareRow:
    """A cell's bar as it is drawn."""

    text: RowText
    y: float
    bar_y: float
    parts: list[Part]
    hidden: Part | None


@dataclass(frozen=True)
class ShareFigure:
    """The figure as it is drawn."""

    width: int
    height: float
    ticks: list[Tick]
    rows: list[ShareRow]


def share_figure(
    labels: Sequence[str], cells: Sequence[CellTable], numbers: Numbers, width: int
) -> ShareFigure:
    """Draws a row for each cell in the order of `cells` in JSON, `width` pixels wide."""
    scale = Scale(0.0, 1.0, MARGIN, width - MARGIN)
    y: float = TOP
    rows = []
    for index, (label, cell) in enumerate(zip(labels, cells, strict=True)):
        text = row_text(label, _note(cell, f"cells.{index}", numbers), width)
        bar_y = y + text.height + 3
        rows.append(ShareRow(text, y, bar_y, _parts(cell, scale), _hidden(cell, scale)))
        y = bar_y + BAR + HIDDEN_BAR + GAP
    return ShareFigure(width, y, ticks_of(scale, "%"), rows)


def _note(cell: CellTable, key: str, numbers: Numbers) -> list[Markup]:
    if cell.row["step_s"] is None:
        return [Markup("no measured step")]
    exposed = "exposed" if cell.row["wait_share"] is not None else "exposed, waiting included,"
    note = [Markup("{} {}").format(exposed, numbers.svg(f"{key}.comm_share"))]
    if cell.row["wait_share"] is not None:
        note.append(Markup("waiting {}").format(numbers.svg(f"{key}.wait_share")))
    if cell.row["hidden_comm_s"] is not None:
        note.append(Markup("hidden {}").format(numbers.svg(f"{key}.hidden_comm_s")))
    return [*note, Markup("step {}").format(numbers.svg(f"{key}.step_s"))]


def _parts(cell: CellTable, scale: Scale) -> list[Part]:
    shares = [_share(cell, name) for name in ORDER]
    starts = [0.0, *accumulate(shares)]
    return [
        Part(name, scale(start), round(scale(start + share) - scale(start), 1))
        for name, start, share in zip(ORDER, starts, shares, strict=False)
        if share > 0
    ]


def _hidden(cell: CellTable, scale: Scale) -> Part | None:
    """Communication behind computation: drawn up to where the exposed part begins."""
    if not cell.row["hidden_comm_s"] or not cell.row["step_s"]:
        return None
    end = sum(_share(cell, name) for name in ORDER[: ORDER.index("exposed_comm_s")])
    start = max(0.0, end - cell.row["hidden_comm_s"] / cell.row["step_s"])
    return Part("hidden", scale(start), round(scale(end) - scale(start), 1))


def _share(cell: CellTable, name: str) -> float:
    share = float(cell.shares[name])
    return share if math.isfinite(share) else 0.0
