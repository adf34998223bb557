"""Shared by the measuring commands: plans a session, runs it into a run directory, and prints its report."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from distsqz import open_run
from distsqz.cli.measure_options import MeasureOptions, OneModelOptions
from distsqz.cli.network import RUN_FILE, lab_for, run_in_lab
from distsqz.cli.progress import SessionProgress
from distsqz.cluster.options import SessionOptions
from distsqz.cluster.ray_cluster import named_cluster
from distsqz.cluster.session import run_session
from distsqz.errors import RequestError, RunError
from distsqz.metering.schema import TABLES
from distsqz.metering.wire import emulated_hosts
from distsqz.report.faults import breach_warnings
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import print_report
from distsqz.report.section import Format
from distsqz.report.tables import read_cells
from distsqz.runs.reader import Run
from distsqz.runs.writer import RunWriter
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.strategy import Strategy
from distsqz.training.memory_needs import session_bytes
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan
from distsqz.training.variants import Vary

GIB = 1 << 30


def measure_one_model(name: str, options: OneModelOptions, strategy: Strategy) -> None:
    """Trains one model over the network that is asked for, and prints the report.

    Raises:
        RequestError: what was asked for cannot be done; it leaves no run behind.
        RunError: training failed; the run directory keeps what was measured until then.
    """
    asked = [options.model], options, [strategy], options.checkpoint, options.resume
    if lab := lab_for(options.network, options.session):
        with redirect_stdout(sys.stderr):  # a model of the user's may print
            plan(*asked)  # what is wrong with the request shows before hosts are made for it
        sys.exit(run_in_lab(lab))
    (run,) = measure(name, *asked)
    if all(cell.get("interface") == "lo" for cell in run.cells):
        command = name if name == strategy.name else f"{name} --strategy {strategy.name}"
        print(
            "Over loopback communication is nearly free. To see what it costs on a network: "
            f"distsqz {command} --network lab --rate 1gbit --model {options.model}",
            file=sys.stderr,
        )


def measure(
    name: str,
    models: Sequence[str],
    options: MeasureOptions,
    strategies: Sequence[Strategy] = (AllReduce(),),
    checkpoint: Path | None = None,
    resume: Path | None = None,
    vary: Vary | None = None,
    *,
    baseline: bool = False,
    sessions: int = 1,
) -> list[Run]:
    """Trains models on the same workers, in sessions named `name`, and prints the report on them.

    Returns the runs. A command that makes one session of several in a lab (`RUN_FILE`) notes the path of its
    run and prints no report. Where a session fails, the report is on those before it.

    Raises:
        RequestError: what was asked for cannot be done; it leaves no run behind.
        RunError: training failed; the run directory keeps what was measured until then.
    """
    with redirect_stdout(sys.stderr):  # Ray and an own model may print; stdout is for results
        session, entries = plan(models, options, strategies, checkpoint, resume, vary, baseline=baseline)
        for notice in session.notices:
            print(notice, file=sys.stderr)
    runs: list[Run] = []
    try:
        for _ in range(sessions):
            with redirect_stdout(sys.stderr):
                runs.append(record(name, session, entries, options.session, options.runs, asdict(options)))
    except (Exception, KeyboardInterrupt) as error:
        if not runs:
            raise
        ended = f"session {len(runs) + 1} of {sessions} did not end, the report is on those before it"
        print(ended, file=sys.stderr)
        print_report([MeasuredRun(run) for run in runs], options.format)
        if isinstance(error, RequestError):  # it could be done before
            raise RunError(str(error)) from error
        raise
    if note := os.environ.get(RUN_FILE):
        Path(note).write_text(str(runs[0].path.absolute()))
    else:
        print_report([MeasuredRun(run) for run in runs], options.format)
    return runs


def print_pooled(paths: Sequence[Path], fmt: Format) -> None:
    """Prints the report on the runs of several sessions."""
    print_report([MeasuredRun(open_run(path)) for path in paths], fmt)


def plan(
    models: Sequence[str],
    options: MeasureOptions,
    strategies: Sequence[Strategy] = (AllReduce(),),
    checkpoint: Path | None = None,
    resume: Path | None = None,
    vary: Vary | None = None,
    *,
    baseline: bool = False,
) -> tuple[SessionPlan, list[dict[str, Any]]]:
    """Plans the session that `options` ask for. Returns the plan and its cells' entries for run.json.

    Raises:
        RequestError: what was asked for does not make sense.
    """
    served = [strategy.title for strategy in strategies if strategy.has_servers]
    if options.session.gpus and served:
        raise RequestError(f"--gpus: a {served[0]} trains on CPUs; --strategies ddp does without")
    session, entries = plan_session(
        models,
        options.session.workers,
        options.training,
        strategies=strategies,
        checkpoint=checkpoint,
        resume=resume,
        vary=vary,
        gpus=options.session.gpus,
        baseline=baseline,
    )
    # Hosts of a cluster have memory of their own, of which nothing is known before Ray is joined.
    several = len(session.cells) > 1
    if several and (emulated_hosts() is not None or not named_cluster(options.session.address)):
        require_memory(session, psutil.virtual_memory().available)
    return session, entries


def require_memory(session: SessionPlan, available_bytes: int) -> None:
    """Refuses a session whose workers and servers do not fit in the memory that they share.

    Raises:
        RequestError: gives what the cells need together, and what is available.
    """
    needed = session_bytes(session.memory_needs)
    if needed <= available_bytes:
        return
    cells = Counter(cell.model for cell in session.cells)
    numbers = " and ".join(f"{number} of {model}" for model, number in cells.items())
    workers = max(cell.world_size for cell in session.cells)
    raise RequestError(
        f"{numbers} on {workers} workers need at least {needed / GIB:.1f} GiB of memory together, and "
        f"{available_bytes / GIB:.1f} GiB are available; measure fewer cells at once, or smaller ones"
    )


def record(
    name: str,
    plan: SessionPlan,
    entries: Sequence[Mapping[str, Any]],
    session: SessionOptions,
    runs: Path,
    options: Mapping[str, Any],
) -> Run:
    """Runs a planned session into a new run directory under `runs`.

    Views of the bytes that do not go together are noted there, also where the run fails.
    """
    start_step = plan.resume.step if plan.resume else 0
    writer = RunWriter.create(runs, name, sys.argv, options, entries, tables=TABLES)
    try:
        with (
            writer,
            SessionProgress(plan.cells, start_step, f"run: {writer.path}", entries) as progress,
        ):
            run_session(plan, session, writer, progress)
    except (RunError, KeyboardInterrupt):
        _note_breaches(open_run(writer.path))
        raise
    run = open_run(writer.path)
    _note_breaches(run)
    return run


def _note_breaches(run: Run) -> None:
    run.add_warnings(breach_warnings(read_cells(run)))
