"""A progress bar for each cell, on stderr: running means of step time and bytes sent, and the loss."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich import filesize
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from distsqz.cli.progress_console import progress_console
from distsqz.cluster.collector import Delivery
from distsqz.metering.schema import EvaluationRecord, StepRecord
from distsqz.report.bounds import busiest_host_bytes, load_by_host
from distsqz.training.cell import Cell


@dataclass
class RunningMeans:
    """Means over the steps of a rank since warm-up; before that, over its warm-up steps."""

    warmup: bool = True
    """Whether only steps of warm-up have been added."""
    steps: int = 0
    wall_s: float = 0.0
    steps_with_bytes: int = 0
    """Number of steps with a known TCP count."""
    sent_bytes: int = 0
    loss: float = float("nan")
    """Loss of the last step."""
    host_bytes: int | None = None
    """Bytes that the busiest host's link must carry in a step, in one direction; None if not known."""

    def add(self, step: StepRecord) -> None:
        """Adds a step."""
        if self.warmup and not step.warmup:
            self.warmup, self.steps, self.wall_s, self.steps_with_bytes, self.sent_bytes = False, 0, 0.0, 0, 0
        self.loss = step.loss
        if step.warmup and not self.warmup:  # made again after a restart
            return
        self.steps += 1
        self.wall_s += step.wall_s
        if step.tcp_tx_bytes is not None:
            self.steps_with_bytes += 1
            self.sent_bytes += step.tcp_tx_bytes

    def __str__(self) -> str:
        """Text of the bar, for example `203 ms/step 7.5 MB/step sent loss 6.908`."""
        sent_bytes = round(self.sent_bytes / self.steps_with_bytes) if self.steps_with_bytes else None
        sent = ""
        if sent_bytes is not None:
            sent = f"{filesize.decimal(sent_bytes)}/step sent{self._link(sent_bytes)}  "
        phase = "warm-up: " if self.warmup else ""
        return f"{phase}{self.wall_s / self.steps * 1000:,.0f} ms/step  {sent}loss {self.loss:.3f}"

    def _link(self, sent_bytes: int) -> str:
        """What a host's link carries, where that is not just what a worker sends."""
        if not self.host_bytes or math.isclose(self.host_bytes, sent_bytes, rel_tol=0.05):
            return ""
        return f", {filesize.decimal(self.host_bytes)} on a host's link"


class SessionProgress:
    """Shows the progress of each cell from the first step on; called with every delivery of records."""

    def __init__(
        self,
        cells: Sequence[Cell],
        start_step: int = 0,
        heading: str | None = None,
        entries: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Prepares a bar for each cell.

        Args:
            cells: the cells of the session.
            start_step: the step from which training goes on; above 0 after a resume.
            heading: a line above the bars.
            entries: the cells' entries in run.json, from which follows what a host's link carries.
        """
        self._heading = heading
        self._entries: dict[str, dict[str, Any]] = {entry["cell"]: dict(entry) for entry in entries}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=progress_console(),
        )
        self.means = {cell.name: RunningMeans() for cell in cells}
        """What each cell's bar shows, by the cell's name."""
        self._tasks: dict[str, TaskID] = {
            cell.name: self._progress.add_task(
                cell.name,
                total=cell.total_steps,
                completed=start_step,
                figures="starting",
            )
            for cell in cells
        }

    def __enter__(self) -> SessionProgress:
        """Draws nothing yet, so that a refused request prints one line and no bars."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Stops updating; the bars stay as they are."""
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, delivery: Delivery) -> None:
        """Moves the bars to the last step of rank 0."""
        if not self._progress.live.is_started:
            if self._heading:
                print(self._heading, file=sys.stderr)
            self._progress.start()
        for cell, facts in delivery.facts.items():
            if entry := self._entries.get(cell):
                entry.update(facts)
                self.means[cell].host_bytes = busiest_host_bytes(load_by_host(entry))
        for record in delivery.records.get("steps", []):
            assert isinstance(record, StepRecord)
            if record.rank == 0:
                means = self.means[record.cell]
                means.add(record)
                self._progress.update(self._tasks[record.cell], completed=record.step + 1, figures=str(means))
        for record in delivery.records.get("evaluations", []):
            assert isinstance(record, EvaluationRecord)
            self._progress.print(f"{record.cell}: accuracy {record.accuracy:.2%} after {record.step} steps")
