"""Endings: why runs did not complete."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section
from distsqz.runs.writer import COMPLETE, FAILED, INTERRUPTED, RUNNING


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A sentence for each run that failed, was interrupted or still goes on."""
    prefixed = len(runs) > 1
    return Section(
        key="ending",
        title="How the runs ended",
        sentences=tuple(
            f"{run.run_id}: {_ending(run)}" if prefixed else _ending(run)
            for run in runs
            if run.run.meta["status"] != COMPLETE
        ),
    )


def _ending(measured: MeasuredRun) -> str:
    status = measured.run.meta["status"]
    done = sum(row["steps"] for row in measured.rows)
    planned = sum(row["planned_steps"] or 0 for row in measured.rows)
    progress = f"{done:,} of {planned:,} measured steps" if planned else f"{done:,} measured steps"
    endings = {
        FAILED: f"The run failed after {progress}: {measured.run.error_text or 'no reason was written'}",
        INTERRUPTED: f"The run was interrupted after {progress}.",
        RUNNING: f"The run has done {progress}; it is still going, or was killed.",
    }
    return endings.get(status, f"The run ended as {status!r}.")
