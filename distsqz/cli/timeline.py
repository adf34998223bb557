"""Shows what every rank did in a step: `distsqz timeline [RUN]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import tyro

from distsqz.cli.report import find_runs
from distsqz.errors import RequestError
from distsqz.report.formats import prose, render, to_json
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.timeline_text import GATHERED, LEGEND, timeline_text
from distsqz.report.timelines import MOST_RANKS, RING, Timeline, read_timelines, time_notes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz timeline`."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = ""
    """Run directory, or id of a run under --runs; the newest by default."""
    step: int | None = None
    """Step to show; by default two successive steps that are typical of each cell."""
    cells: tuple[str, ...] = ()
    """Cells to show, by their names in the report; by default all."""
    svg: Path | None = None
    """File (.svg) in which to draw the timelines, all cells on one axis of time."""
    runs: Path = Path("runs")
    """Directory in which runs are found by id."""
    format: Literal["table", "json"] = "table"
    """Format on stdout: text at the terminal's width, with the first 16 ranks of a cell; or every phase and
    transfer of every rank."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


def main(options: Options) -> None:
    """Prints the timelines and the sums of their phases."""
    if options.svg and options.svg.suffix != ".svg":
        raise RequestError(f"--svg {options.svg}: must end in .svg")
    (run,) = (MeasuredRun(run) for run in find_runs([options.run] if options.run else [], options.runs))
    if run.shipped:
        raise RequestError(f"RUN {run.run_id}: only sent models; name a run that trained")
    names = [str(row["cell"]) for row in run.rows]
    for name in options.cells:
        if name not in names:
            raise RequestError(f"--cells {name}: no cell of {run.run_id}; choose of {', '.join(names)}")
    timelines = read_timelines(run.run, options.cells or names, options.step, most_ranks=None)
    if not timelines:
        raise RequestError(f"RUN {run.run_id}: no step was measured")
    drawn = [timeline.first_ranks() for timeline in timelines]
    if options.format == "json":
        print(to_json({"run_id": run.run_id, **_document(timelines)}))
    else:
        print("\n\n".join([timeline_text(drawn), prose(_notes(drawn), "table"), _table(run.run_id, drawn)]))
    if options.svg:
        from distsqz.report.figures import draw_timelines  # matplotlib takes a second to import

        draw_timelines(drawn, options.svg)


def _notes(drawn: Sequence[Timeline]) -> list[str]:
    """The notes below timelines: the legend, and what the drawing leaves out."""
    notes = [f"{LEGEND}; --cells NAME shows one in full width" if len(drawn) > 1 else LEGEND]
    if any(timeline.gathered for timeline in drawn):
        notes.append(GATHERED)
    notes += time_notes(drawn)
    if any(timeline.ranks > len(timeline.lanes) for timeline in drawn):
        notes.append(f"Of a cell the first {MOST_RANKS} ranks are shown; --format json has all.")
    return notes


def _table(run_id: str, timelines: Sequence[Timeline]) -> str:
    sums = pd.DataFrame([row for timeline in timelines for row in _sums(timeline)], dtype=object)
    title = f"Time in each phase, summed over the steps shown, of {run_id}"
    return render(sums.dropna(axis=1, how="all"), "table", title, 3)


def _document(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """Timelines as flat lists of rows: cells, every phase and transfer, and the sums of phases."""
    return {
        "cells": [
            {
                "cell": timeline.cell,
                "steps": list(timeline.steps),
                "own_clocks": timeline.own_clocks,
                "joined": timeline.joined,
            }
            for timeline in timelines
        ],
        "phases": [
            {
                "cell": timeline.cell,
                "rank": lane.rank,
                "host": lane.host,
                "what": name.removesuffix("_s"),
                "start_s": start,
                "end_s": end,
            }
            for timeline in timelines
            for lane in timeline.lanes
            for name, start, end in (*lane.phases, *lane.transfers)
        ],
        "sums": [row for timeline in timelines for row in _sums(timeline)],
    }


def _sums(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """What each phase of each rank takes in the steps that are shown."""
    for lane in timeline.lanes:
        row: dict[str, Any] = {"cell": timeline.cell, "rank": lane.rank, "host": lane.host}
        durations: dict[str, float | None] = dict.fromkeys(RING)
        for name, start, end in lane.phases:
            durations[name] = (durations[name] or 0.0) + end - start
        known: Sequence[float] = [value for value in durations.values() if value is not None]
        yield row | durations | {"wall_s": sum(known)}
