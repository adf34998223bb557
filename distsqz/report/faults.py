"""Faults of a run's figures: missing rows, and views of its bytes that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.tables import CellTable
from distsqz.runs import COMPLETE


def missing_rows(measured: MeasuredRun) -> list[str]:
    """A sentence about each part of a run that is missing, even if the run has completed."""
    lines = measured.run.faults()
    if measured.run.meta["status"] == COMPLETE:
        lines += [
            f"Warning: the run completed, but {row['cell']} has {row['steps']:,} of {row['planned_steps']:,} "
            "measured steps."
            for row in measured.rows
            if row["planned_steps"] is not None and row["steps"] < row["planned_steps"]
        ]
    return lines


def breach_warnings(cells: Sequence[CellTable]) -> list[str]:
    """A sentence for each pair of views that contradict each other."""
    return [f"Warning: {breach.sentence()}" for cell in cells for breach in cell.breaches]
