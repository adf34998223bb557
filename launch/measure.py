"""What the measuring commands share: a planned session, run into a run directory, then its report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from analysis.formats import Format
from analysis.report import report
from analysis.tables import read_cells
from distsqz.orchestration.progress import SessionProgress
from distsqz.orchestration.session import SessionOptions, run_session
from distsqz.runs import Run, RunWriter
from distsqz.training.options import TrainingOptions
from distsqz.training.session import SessionPlan


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of every measuring command."""

    session: OmitArgPrefixes[SessionOptions] = field(default_factory=SessionOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)
    runs: Path = Path("runs")
    """Where the run directory is made."""
    format: Format = "table"
    """Of the report on stdout."""
    debug: bool = False
    """Print tracebacks."""


def measure(
    name: str, plan: SessionPlan, entries: Sequence[Mapping[str, Any]], options: MeasureOptions
) -> None:
    """Runs a session, named `name`, and prints what it found.

    Raises:
        RequestError: the run directory or the workers cannot be had.
        RunError: training failed; the run directory keeps what was measured until then.
    """
    start_step = plan.resume.step if plan.resume else 0
    with (
        RunWriter.create(options.runs, name, sys.argv, asdict(options), entries) as writer,
        SessionProgress(plan.cells, start_step, heading=f"run: {writer.path}") as progress,
        redirect_stdout(sys.stderr),  # Ray prints its own messages; stdout is for results
    ):
        run_session(plan, options.session, writer, progress)
    run = Run(writer.path)
    print(report([run], [read_cells(run)], options.format))
