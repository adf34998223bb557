"""Faults of a run's figures: missing rows, and views of its bytes that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.checks import Breach
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.tables import CellTable
from distsqz.runs.writer import COMPLETE


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
    """A sentence for each rule that a cell breaks, with the figures of the rank or host that breaks it most.

    Breaches of a rule for different reasons have a sentence each.
    """
    alike: dict[tuple[object, ...], list[Breach]] = {}
    for cell in cells:
        for breach in cell.breaches:
            alike.setdefault((breach.cell, breach.views, breach.cause, breach.rank is None), []).append(
                breach
            )
    worst = ((max(each, key=lambda breach: breach.gap_share), len(each) - 1) for each in alike.values())
    return [f"Warning: {breach.sentence(others)}" for breach, others in worst]
