"""Figures of instruments that no other section shows, also of some that this version lacks.

A run declares its columns, so that a program that does not know an instrument can still show what it read.
"""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section
from distsqz.report.tables import LOCAL, VIEWS
from distsqz.runs.columns import Column

OVER_RANKS = {"mean": "mean of the ranks", "sum": "sum over the ranks", "max": "largest of the ranks"}


def section(runs: Sequence[MeasuredRun]) -> Section:
    """The rows of the cells, with the columns that have a heading and that no other section shows."""
    rows = tuple(row for run in runs for row in run.rows)
    columns = [each for each in _declared(runs) if any(row.get(each.name) is not None for row in rows)]
    by_way: dict[str, list[str]] = {}
    for each in columns:
        by_way.setdefault(OVER_RANKS[str(each.combine)], []).append(str(each.heading).replace("_", " "))
    notes = "; ".join(f"{', '.join(names)}: {way}" for way, names in by_way.items())
    several = ("run_id",) if len(runs) > 1 else ()
    return Section(
        key="instruments",
        title="Other instruments, means over steps",
        columns=(*several, "cell", *(each.name for each in columns)),
        headings={each.name: str(each.heading) for each in columns},
        identifying=len(several) + 1,
        rows=rows,
        shown=None if columns else (),
        notes=(f"{notes[:1].upper()}{notes[1:]}.",) if columns else (),
        json_key="cells",
    )


def _declared(runs: Sequence[MeasuredRun]) -> list[Column]:
    """Columns of steps that are figures of a cell, each once."""
    columns = {
        column.name: column
        for run in runs
        for column in run.run.columns("steps")
        if column.combine and column.heading and column.name not in {*VIEWS, *LOCAL}
    }
    return list(columns.values())
