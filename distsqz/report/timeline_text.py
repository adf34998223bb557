"""A timeline as text: the phases of each rank, its transfers below them, all cells on one time axis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from textwrap import wrap

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
NAMES_SHARE = 3
"""Names of ranks and hosts take at most this part of a line: a third."""


def timeline_text(timelines: Sequence[Timeline], width: int | None = None) -> str:
    """Timelines one below the other, all in the same scale.

    Args:
        timelines: what to show.
        width: characters of a line; by default those of the terminal.
    """
    width = width or terminal_width()
    names = [_name(lane) for timeline in timelines for lane in timeline.lanes]
    margin = min(max(map(len, names), default=0) + 2, width // NAMES_SHARE)
    columns = max(LEAST_COLUMNS, width - margin)
    end_s = max((timeline.end_s for timeline in timelines), default=0.0)
    lines = []
    for timeline in timelines:
        lines += wrap(timeline.title, width, subsequent_indent="  ", break_on_hyphens=False)
        for lane in timeline.lanes:
            name = _elided(_name(lane), margin - 2)
            lines.append(f"{name:<{margin}}{_drawn(lane.phases, end_s, columns)}".rstrip())
            if lane.transfers:
                lines.append(f"{'':<{margin}}{_drawn(lane.transfers, end_s, columns)}".rstrip())
        lines.append("")
    start, end = "0", seconds(end_s)
    lines.append(f"{'':<{margin}}{start}{end:>{columns - len(start)}}")
    return "\n".join(lines)


def _name(lane: Lane) -> str:
    return f"rank {lane.rank} {lane.host}"


def _elided(name: str, most: int) -> str:
    """A name of at most so many characters: the middle of a longer one is left out."""
    if len(name) <= most:
        return name
    tail = max(0, most - 1) // 2
    return f"{name[: most - 1 - tail]}…{name[len(name) - tail :]}"


def _drawn(intervals: Sequence[Interval], end_s: float, columns: int) -> str:
    """A character for each part of the axis: that of the phase which takes most of the part.

    A part is blank where all phases together take less than half of it.
    """
    scale = columns / end_s if end_s else 0.0
    text = []
    for column in range(columns):
        shares: defaultdict[str, float] = defaultdict(float)
        for name, start, end in intervals:
            share = min(end * scale, column + 1) - max(start * scale, column)
            if share > 0:
                shares[name] += share
        blank = not shares or (sum(shares.values()) < 0.5 and column)  # a lane shows where it begins
        text.append(" " if blank else LETTERS.get(max(shares, key=lambda name: shares[name]), TRANSFER))
    return "".join(text)
