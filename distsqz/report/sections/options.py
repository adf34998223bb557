"""Cells that differ in one option: what the option changes in bytes and step times."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from distsqz.report.claims import how_times_are_compared, time_claim, workers
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool, pooled_cells
from distsqz.report.section import Section

COLUMNS = (
    "option",
    "model",
    "strategy",
    "world_size",
    "small",
    "large",
    "bytes_ratio",
    "bytes_source",
    "step_ratio",
    "step_ratio_ci95",
    "paired",
    "pairs",
)


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row and a sentence for each pair of cells of a run that are alike but for one option."""
    comparisons = list(chain.from_iterable(run.option_comparisons for run in runs))
    pooled = pooled_cells(pool(runs), "options")
    spoken = [row for row in comparisons if _cells_of(row) not in pooled]
    return Section(
        key="option_comparisons",
        title=f"Cells that differ in one option, large over small ({how_times_are_compared(comparisons)})",
        columns=COLUMNS,
        identifying=6,
        rows=tuple(comparisons),
        sentences=tuple(map(_finding, spoken)),
    )


def _cells_of(comparison: dict[str, Any]) -> tuple[str, str, str]:
    """The run's id and the two cells, as `distsqz.report.pooling` has them."""
    return comparison["run_id"], comparison["small_cell"], comparison["large_cell"]


def _finding(comparison: dict[str, Any]) -> str:
    small, large = (f"{comparison['option']}={comparison[end]}" for end in ("small", "large"))
    how = "paired blocks" if comparison["paired"] else "unpaired"
    scope = f"With {workers(comparison)}, for {comparison['model']} under {comparison['strategy']}"
    claims = [_bytes_claim(comparison, small, large), time_claim(comparison, small, large, how)]
    return f"{scope}, {'; '.join(claim for claim in claims if claim)}."


def _bytes_claim(comparison: dict[str, Any], small: str, large: str) -> str:
    bytes_ratio = comparison["bytes_ratio"]
    if bytes_ratio is None:
        return f"{small} and {large} sent no bytes that could be compared"
    shown = ratio(bytes_ratio)
    if shown == ratio(1.0):
        return f"{small} and {large} send equally many bytes ({shown})"
    if bytes_ratio < 1:
        return f"{large} sends {shown} the bytes of {small}"
    return f"{small} sends {shown} fewer bytes than {large}"
