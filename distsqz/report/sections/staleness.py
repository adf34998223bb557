"""Staleness: how many updates by others an update of a parameter server had missed."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each cell and staleness."""
    rows = tuple({"run_id": run.run_id, **row} for run in runs for row in run.staleness)
    several = ("run_id",) if len(runs) > 1 else ()
    return Section(
        key="staleness",
        title="Staleness: updates by others that an update missed",
        columns=(*several, "cell", "staleness", "updates", "share"),
        identifying=len(several) + 2,
        rows=rows,
        noteworthy=any(row["staleness"] for row in rows),
        in_run=True,
    )
