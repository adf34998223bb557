"""Finds the runs in a directory."""

from __future__ import annotations

import sys
from pathlib import Path

from distsqz.errors import RequestError
from distsqz.runs.columns import Tables
from distsqz.runs.reader import Run, reason_of


def runs_under(root: Path, tables: Tables) -> tuple[list[Run], list[RequestError]]:
    """Every run in a directory of `root` once, symbolic links included, and an error for each directory that
    has a run.json but no readable run.

    Args:
        root: directory of run directories.
        tables: the columns that this program knows.

    Raises:
        RequestError: `root` cannot be read.
    """
    try:
        directories = sorted(root.iterdir()) if root.exists() else []
    except OSError as error:
        raise RequestError(
            f"{root}: cannot be read ({reason_of(error)}); name a directory of runs"
        ) from error
    runs, others = [], []
    for path in dict.fromkeys(path.resolve() for path in directories if _may_be_run(path)):
        try:
            runs.append(Run(path, tables))
        except RequestError as error:
            others.append(error)
    return runs, others


def _may_be_run(path: Path) -> bool:
    """Whether a directory has a run.json, or cannot be read."""
    try:
        return (path / "run.json").is_file()
    except PermissionError:
        return True


def newest_run(root: Path) -> Path:
    """The run under `root` that was started last. Unreadable runs are skipped and named on stderr.

    Raises:
        RequestError: there is none.
    """
    runs, others = runs_under(root, tables={})  # none is read
    reasons = "; ".join(map(str, others))
    if not runs:
        raise RequestError(
            f"{root}: no run there yet; make one with `distsqz ddp` or `distsqz compare`"
            + (f" (skipped: {reasons})" if others else "")
        )
    if others:
        print(f"skipped: {reasons}", file=sys.stderr)
    # Of a run and its copies, the one that has its own name.
    return max(runs, key=lambda run: (run.started_at, run.path.name == run.run_id)).path
