"""Timelines of steps: the phases of each rank, and its transfers in flight, on one axis of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyarrow.compute as pc

from distsqz.errors import InvalidValue
from distsqz.report.formats import seconds
from distsqz.report.measured import makes_steps_together, measured_steps
from distsqz.runs.reader import Run

MOST_RANKS = 16
"""Ranks of a cell that are drawn, as text, as a picture and on the page."""

GATHERED = ("data_s", "wait_s", "exposed_comm_s", "forward_s", "backward_s", "optimizer_s", "other_s")
"""Phases of a step that waits for parameters in its forward pass: the waits are drawn together before it."""
RING = ("data_s", "forward_s", "backward_s", "wait_s", "exposed_comm_s", "optimizer_s", "other_s")
"""Phases of a step that waits for gradients after its backward pass."""

Interval = tuple[str, float, float]
"""An interval of a lane: its kind, start and end, in seconds since the start of the timeline."""


@dataclass(frozen=True)
class Lane:
    """Phases and transfers of one rank in the steps."""

    rank: int
    host: str
    phases: list[Interval]
    transfers: list[Interval]
    """Intervals in which at least one transfer was in flight."""


@dataclass(frozen=True)
class Timeline:
    """One or two steps of a cell: a lane of phases and transfers for each rank."""

    cell: str
    steps: tuple[int, ...]
    lanes: list[Lane]
    ranks: int
    """Number of ranks, including those that are not shown."""
    gathered: bool
    """Whether waits of the forward pass are drawn together before it."""
    own_clocks: bool
    """Whether each rank's time counts from its own first step, as hosts' clocks differ."""
    joined: bool
    """Whether time in which other cells took their turns was cut out between the two steps."""

    @property
    def end_s(self) -> float:
        """End of the last phase."""
        return max(end for lane in self.lanes for _, _, end in lane.phases)

    @property
    def title(self) -> str:
        """The cell, its steps, the time that they take, and how many ranks are not drawn."""
        steps = " and ".join(map(str, self.steps))
        left_out = self.ranks - len(self.lanes)
        more = f", {left_out} of {self.ranks} ranks left out" if left_out else ""
        plural = "s" if len(self.steps) > 1 else ""
        return f"{self.cell}, step{plural} {steps}: {seconds(self.end_s)}{more}"

    def first_ranks(self, number: int = MOST_RANKS) -> Timeline:
        """The timeline with the lanes of its first ranks only, as drawings show it."""
        return replace(self, lanes=self.lanes[:number])


def read_timelines(
    run: Run, names: Iterable[str], step: int | None = None, most_ranks: int | None = MOST_RANKS
) -> list[Timeline]:
    """The timelines of those cells, named by their ids, that have measured a step.

    Args:
        run: the run.
        names: the cells.
        step: the step to show; by default two successive ones that are typical of the cell.
        most_ranks: number of ranks to read, from rank 0 on; None: all.

    Raises:
        InvalidValue: none of the cells has measured the step.
    """
    steps = measured_steps(run)
    entries = {cell["cell"]: cell for cell in run.cells}
    transfers = run.table("transfers")
    timelines = []
    for name in names:
        of_cell = steps[steps["cell"] == name]
        chosen = _typical_steps(of_cell, entries[name])
        if step is not None:
            chosen = [step] if (of_cell["step"] == step).any() else []
        if chosen:
            wanted = (pc.field("cell") == name) & pc.field("step").isin(chosen)
            sent = transfers.filter(wanted).to_pandas()
            rows = of_cell[of_cell["step"].isin(chosen)]
            timelines.append(_timeline(entries[name], rows, sent, chosen, most_ranks))
    if step is not None and not timelines:
        measured = f"{steps['step'].min()} to {steps['step'].max()}" if len(steps) else "none"
        raise InvalidValue("step", step, f"was not measured by any cell; measured steps: {measured}")
    return timelines


def time_notes(timelines: Sequence[Timeline]) -> list[str]:
    """Sentences about the axis of time: clocks that differ, and time that is left out."""
    notes = []
    if any(timeline.own_clocks for timeline in timelines):
        notes.append("Hosts' clocks differ, so each rank's time begins with its own first step.")
    if any(timeline.joined for timeline in timelines):
        notes.append("The time between two steps, in which other cells took their turns, is left out.")
    return notes


def _typical_steps(steps: pd.DataFrame, cell: dict[str, Any]) -> list[int]:
    """Two successive steps, of one block if blocks have two, whose time is nearest to twice the median."""
    wall_s = steps.groupby("step")["wall_s"].max()
    if wall_s.empty:
        return []
    first, block_steps = int(wall_s.index.min()), cell.get("block_steps") or 1
    pairs = [
        (step, step + 1)
        for step in sorted(map(int, steps["step"].unique()))
        if step + 1 in wall_s.index and ((step + 1 - first) % block_steps or block_steps == 1)
    ]
    if not pairs:
        return [int(str((wall_s - wall_s.median()).abs().idxmin()))]
    typical = min(pairs, key=lambda pair: abs(sum(wall_s[step] for step in pair) - 2 * wall_s.median()))
    return list(typical)


def _timeline(
    cell: dict[str, Any],
    steps: pd.DataFrame,
    sent: pd.DataFrame,
    chosen: Sequence[int],
    most_ranks: int | None,
) -> Timeline:
    """All times are seconds since the first step's beginning: of the first rank, or of each rank its own."""
    gathered = bool(cell.get("servers"))
    apart = makes_steps_together(cell) and not gathered and cell["world_size"] > 1
    own_clocks = not cell.get("emulated") and len(set(cell.get("hosts") or ())) > 1
    starts_ns = steps[steps["step"] == chosen[0]].groupby("rank")["t_start_ns"].min()
    origins_ns = starts_ns if own_clocks else starts_ns * 0 + starts_ns.min()
    steps = steps.assign(
        start_s=(steps["t_start_ns"] - steps["rank"].map(origins_ns)) / 1e9,
        least_exposed_s=steps.groupby("step")["exposed_comm_s"].transform("min"),
    )
    cut_s = _time_between(steps, chosen)
    lanes = []
    ranks = sorted(map(int, steps["rank"].unique()))
    for rank in ranks[:most_ranks]:
        of_rank = steps[steps["rank"] == rank].sort_values("step")
        phases: list[Interval] = []
        transfers: list[Interval] = []
        for row in of_rank.to_dict("records"):
            shift_s = cut_s if row["step"] != chosen[0] else 0.0
            phases += _phases(row, row["start_s"] - shift_s, gathered, apart)
            mine = sent[(sent["rank"] == rank) & (sent["step"] == row["step"])]
            mine = mine[mine["t_launch_ns"] >= row["t_start_ns"]].dropna(subset="t_done_ns")
            base_s = row["start_s"] - shift_s
            transfers += [
                (
                    "transfer",
                    base_s + (launch - row["t_start_ns"]) / 1e9,
                    base_s + (done - row["t_start_ns"]) / 1e9,
                )
                for launch, done in zip(mine["t_launch_ns"], mine["t_done_ns"].astype("int64"), strict=True)
            ]
        lanes.append(Lane(rank, str(of_rank["host"].iloc[0]), phases, merged(transfers, 0.0)))
    return Timeline(
        cell=cell["cell"],
        steps=tuple(chosen),
        lanes=lanes,
        ranks=len(ranks),
        gathered=gathered,
        own_clocks=own_clocks,
        joined=cut_s > 0,
    )


def _time_between(steps: pd.DataFrame, chosen: Sequence[int]) -> float:
    """Seconds to cut out between the last rank's end of one step and the first rank's start of the next."""
    first, last = steps[steps["step"] == chosen[0]], steps[steps["step"] == chosen[-1]]
    between_s = float(last["start_s"].min() - (first["start_s"] + first["wall_s"]).max())
    return between_s if between_s > 0.05 * first["wall_s"].max() else 0.0


def _phases(row: Mapping[Any, Any], start_s: float, gathered: bool, apart: bool) -> Iterator[Interval]:
    """A step's phases one after the other, as they were recorded."""
    durations_s = dict(row)
    if apart and pd.notna(row["exposed_comm_s"]):
        durations_s["exposed_comm_s"] = row["least_exposed_s"]
        durations_s["wait_s"] = row["exposed_comm_s"] - row["least_exposed_s"]
    for name in GATHERED if gathered else RING:
        duration_s = durations_s.get(name)
        if duration_s is not None and duration_s > 0:  # NaN, for "not recorded", is not
            yield name, start_s, start_s + duration_s
            start_s += duration_s


def merged(intervals: Iterable[Interval], gap: float) -> list[Interval]:
    """The union of intervals; those closer than `gap` become one."""
    union: list[Interval] = []
    for name, start, end in sorted(intervals, key=lambda interval: interval[1]):
        if union and start <= union[-1][2] + gap:
            union[-1] = (name, union[-1][1], max(end, union[-1][2]))
        else:
            union.append((name, start, end))
    return union
