"""A progress bar a cell, on stderr: step time, bytes a step, loss."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from types import TracebackType

from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from distsqz.cluster.collector import Delivery
from distsqz.metering.schema import EvaluationRecord, StepRecord
from distsqz.training.cell import Cell


class SessionProgress:
    """Shows how far each cell is, once training begins; call it with every delivery."""

    def __init__(self, cells: Sequence[Cell], start_step: int = 0, heading: str | None = None) -> None:
        """Prepares a bar a cell, below a line that says what they belong to."""
        self._heading = heading
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {
            cell.name: self._progress.add_task(
                f"{cell.model} {cell.strategy}",
                total=cell.total_steps,
                completed=start_step,
                figures="starting",
            )
            for cell in cells
        }

    def __enter__(self) -> SessionProgress:
        """Draws nothing yet: a request that is refused shows its one line and no bars."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leaves the bars as they stand."""
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, delivery: Delivery) -> None:
        """Moves the bars to the last step of rank 0."""
        if not self._progress.live.is_started:
            if self._heading:
                print(self._heading, file=sys.stderr)
            self._progress.start()
        steps = defaultdict(list)
        for record in delivery.records.get("steps", []):
            assert isinstance(record, StepRecord)
            if record.rank == 0:
                steps[record.cell].append(record)
        for cell, new in steps.items():
            self._progress.update(self._tasks[cell], completed=new[-1].step + 1, figures=_figures(new))
        for record in delivery.records.get("evaluations", []):
            assert isinstance(record, EvaluationRecord)
            self._progress.print(f"{record.cell}: accuracy {record.accuracy:.2%} after {record.step} steps")


def _figures(new: Sequence[StepRecord]) -> str:
    """Of what came in together: single steps of a parameter server pay for each other."""
    step_s = fmean(step.wall_s for step in new)
    counted = [step.tcp_tx_bytes for step in new if step.tcp_tx_bytes is not None]
    sent = f"{filesize.decimal(round(fmean(counted)))}/step sent  " if counted else ""
    return f"{step_s * 1000:,.0f} ms/step  {sent}loss {new[-1].loss:.3f}"
