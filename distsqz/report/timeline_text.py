"""A timeline as text: the phases of each rank, its transfers below them, all cells on one time axis."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.formats import seconds
from distsqz.report.terminal import terminal_width
from distsqz.report.timelines import Interval, Lane, Timeline

LETTERS = {
    "data_s": "d",
    "forward_s": "f",
    "backward_s": "b",
    "exposed_comm_s": "#",
    "wait_s": "~",
    "optimizer_s": "o",
    "other_s": ".",
}
TRANSFER = "="
LEGEND = (
    "d data, f forward, b backward, # exposed communication, ~ waiting for the last rank, o optimizer, "
    ". other; = below a rank while a transfer is in flight; a blank where a rank does nothing "
    "in these steps. All cells share one scale"
)
GATHERED = (
    "Under a parameter server a rank waits for parameters within its forward pass. These waits are drawn "
    "together before it, and # holds the waiting for late ranks, which the report separates over a block"
)
LEAST_COLUMNS = 20
"""Columns of the time axis at least, however narrow the terminal."""


def timeline_text(timelines: Sequence[Timeline], width: int | None = None) -> str:
    """Timelines one below the other, all in the same scale.

    Args:
        timelines: what to show.
        width: characters of a line; by default those of the terminal.
    """
    width = width or terminal_width()
    names = [_name(lane) for timeline in timelines for lane in timeline.lanes]
    margin = max(map(len, names), default=0) + 2
    columns = max(LEAST_COLUMNS, width - margin)
    end_s = max((timeline.end_s for timeline in timelines), default=0.0)
    lines = []
    for timeline in timelines:
        lines += [_heading(timeline)]
        for lane in timeline.lanes:
            lines.append(f"{_name(lane):<{margin}}{_drawn(lane.phases, end_s, columns)}".rstrip())
            if lane.transfers:
                lines.append(f"{'':<{margin}}{_drawn(lane.transfers, end_s, columns)}".rstrip())
        lines.append("")
    start, end = "0", seconds(end_s)
    lines.append(f"{'':<{margin}}{start}{end:>{columns - len(start)}}")
    return "\n".join(lines)


def _heading(timeline: Timeline) -> str:
    steps = " and ".join(map(str, timeline.steps))
    left_out = timeline.ranks - len(timeline.lanes)
    more = f", {left_out} more ranks left out" if left_out else ""
    plural = "s" if len(timeline.steps) > 1 else ""
    return f"{timeline.cell}, step{plural} {steps}: {seconds(timeline.end_s)}{more}"


def _name(lane: Lane) -> str:
    return f"rank {lane.rank} {lane.host}"


def _drawn(intervals: Sequence[Interval], end_s: float, columns: int) -> str:
    """A character for each part of the axis: that of the interval which takes most of the part."""
    scale = columns / end_s if end_s else 0.0
    text = []
    for column in range(columns):
        shares = {
            name: max(0.0, min(end * scale, column + 1) - max(start * scale, column))
            for name, start, end in intervals
            if end * scale > column and start * scale < column + 1
        }
        name = max(shares, key=lambda name: shares[name], default=None)
        text.append(" " if name is None or (shares[name] < 0.5 and column) else LETTERS.get(name, TRANSFER))
    return "".join(text)
