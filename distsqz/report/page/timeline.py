"""Draws the timeline of two steps on the page: a lane for each rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distsqz.report.page.dots import MARGIN, TOP, Tick, ticks_of
from distsqz.report.page.rows import CHARACTER, LINE, elided
from distsqz.report.page.scales import Scale, linear_scale
from distsqz.report.timelines import Interval, Timeline, merged

LANE, TRANSFERS, GAP = 13, 6, 9
"""Heights of a rank's phases, of its transfers, and of the space below them, in pixels."""
LABEL_WIDTH = 126
"""Width of the ranks' names where they stand beside the lanes, in pixels."""


@dataclass(frozen=True)
class DrawnLane:
    """A rank's lane: SVG paths by what they show."""

    label: str
    label_x: float
    label_y: float
    y: float
    phases: dict[str, str]
    transfers: str


@dataclass(frozen=True)
class TimelineFigure:
    """A timeline as it is drawn."""

    width: int
    height: float
    ticks: list[Tick]
    lanes: list[DrawnLane]


def timeline_figure(timeline: Timeline, end_s: float, width: int) -> TimelineFigure:
    """Draws a lane for each rank; the ranks' names stand above the lanes where it is narrow.

    Args:
        timeline: what is drawn.
        end_s: end of the axis of time, which all timelines of a page share.
        width: of the drawing, in pixels.
    """
    beside = width > 4 * LABEL_WIDTH
    scale = linear_scale([end_s], LABEL_WIDTH if beside else MARGIN, width - MARGIN)
    y: float = TOP
    lanes = []
    for lane in timeline.lanes:
        label_y = y + 12
        if not beside:
            y += LINE
        phases = {
            name: _path((each for each in lane.phases if each[0] == name), scale, LANE)
            for name in dict.fromkeys(name for name, _, _ in lane.phases)
        }
        transfers = _path(lane.transfers, scale, TRANSFERS)
        label = elided(f"rank {lane.rank}, {lane.host}", int((LABEL_WIDTH if beside else width) / CHARACTER))
        lanes.append(DrawnLane(label, 0, label_y, y, phases, transfers))
        y += LANE + 2 + TRANSFERS + GAP
    return TimelineFigure(width, y, ticks_of(scale, "s"), lanes)


def _path(intervals: Iterable[Interval], scale: Scale, height: int) -> str:
    """A rectangle for each interval, as one path from y = 0 down."""
    return "".join(
        f"M{start:g} 0h{max(end - start, 0.3):.1f}v{height}H{start:g}z"
        for _, start, end in merged(((name, scale(start), scale(end)) for name, start, end in intervals), 0.2)
    )
