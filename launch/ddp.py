"""Trains one model data-parallel, metered: `python launch/ddp.py --model squeezenet`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from distsqz.cli import run_command
from distsqz.orchestration.progress import SessionProgress
from distsqz.orchestration.session import SessionOptions, run_session
from distsqz.runs import RunWriter
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of launch/ddp.py."""

    model: str = "squeezenet"
    """A name of the registry (an unknown one lists them), or package.module:factory of your own."""
    checkpoint: Path | None = None
    """Start from the parameters in this file, such as a published .pth."""
    resume: Path | None = None
    """Go on from this checkpoint, or from the newest one of this run directory."""
    session: OmitArgPrefixes[SessionOptions] = field(default_factory=SessionOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)
    runs: Path = Path("runs")
    """Where the run directory is made."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    plan, entries = plan_session(
        [options.model],
        "ddp",
        options.session.workers,
        options.training,
        checkpoint=options.checkpoint,
        resume=options.resume,
    )
    name = f"ddp-{plan.cells[0].model.replace(':', '.')}"
    start_step = plan.resume.step if plan.resume else 0
    with (
        RunWriter.create(options.runs, name, sys.argv, asdict(options), entries) as run,
        SessionProgress(plan.cells, start_step) as progress,
    ):
        run_session(plan, options.session, run, progress)
    print(run.path)


if __name__ == "__main__":
    run_command(main, Options, "Train a model data-parallel over Ray and count every byte it sends.")
