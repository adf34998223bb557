"""What instruments read in a step, by the declarations of their columns, known to this program or not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from distsqz.metering.columns import Column
from distsqz.metering.schema import READINGS
from distsqz.runs import Run

HEADINGS = {column.name: column.heading for column in READINGS.values() if column.heading}
"""Headings of the columns of this program's instruments, by column."""


def combined(steps: pd.DataFrame, columns: Iterable[Column]) -> dict[str, float | None]:
    """A cell's figures: each column combined over ranks as it declares, then the mean over steps.

    None where a value is unknown in any step, or there is none. Columns that are not combined are left out.

    Args:
        steps: a row for each rank and step.
        columns: of `steps`.
    """
    return {column.name: _figure(steps, column.name, column.combine) for column in columns if column.combine}


def _figure(steps: pd.DataFrame, name: str, combine: str) -> float | None:
    values = steps[name]
    if combine != "mean" and values.notna().all():  # else the mean over all rows is that of the means
        values = values.groupby(steps["step"]).agg(combine)
    mean = values.mean(skipna=False)
    return float(mean) if math.isfinite(mean) else None


def other_instruments(
    runs: Iterable[Run], rows: Sequence[dict[str, Any]], shown: Iterable[str]
) -> tuple[str, list[dict[str, Any]]]:
    """A table of what no other table shows: its title, and a row a cell with values by heading.

    Args:
        runs: the runs that the cells are of.
        rows: the cells.
        shown: columns that other tables show.
    """
    columns = {
        column.name: column
        for run in runs
        for column in run.columns("steps")
        if column.combine and column.heading and column.name not in set(shown)
    }
    known = [column for name, column in columns.items() if any(row.get(name) is not None for row in rows)]
    if not known:
        return "", []
    notes = "; ".join(
        f"{str(each.heading).replace('_', ' ')}: {_OVER_RANKS[str(each.combine)]}" for each in known
    )
    return f"Other instruments, means over steps ({notes})", [
        {
            "run_id": row["run_id"],
            "cell": row["cell"],
            **{str(column.heading): row.get(column.name) for column in known},
        }
        for row in rows
    ]


_OVER_RANKS = {
    "mean": "mean of the ranks",
    "sum": "sum over the ranks",
    "max": "largest of the ranks",
}
