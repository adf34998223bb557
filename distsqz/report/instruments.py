"""Figures of instruments, from the declarations of their columns, whether or not this program knows them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from distsqz.runs.columns import Column


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
