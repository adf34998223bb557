"""Lists and removes runs: `distsqz runs [list|remove]`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from tyro.conf import Positional, subcommand

from distsqz.cli.command import run_command
from distsqz.cli.report import find_runs
from distsqz.cli.subcommands import SUBCOMMANDS
from distsqz.errors import RequestError
from distsqz.metering.schema import TABLES
from distsqz.report.formats import render
from distsqz.report.section import Format
from distsqz.runs.listing import runs_under
from distsqz.runs.reader import Run
from distsqz.runs.writer import RUNNING


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every subcommand."""

    runs: Path = Path("runs")
    """Directory that holds the runs."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """List the runs, the newest last."""

    format: Format = "table"
    """Format of the table on stdout."""


@dataclass(frozen=True, kw_only=True)
class Remove(Common):
    """Remove runs and everything in their directories."""

    run: Positional[tuple[str, ...]]
    """Run directories, or ids of runs under --runs."""
    force: bool = False
    """Also remove runs that have not ended, because they are still going on or were killed."""


Command = Annotated[List, subcommand("list")] | Annotated[Remove, subcommand("remove")]


def run(arguments: Sequence[str], prog: str | None = None) -> None:
    """Parses `arguments`, by default `list`, and does what they ask."""
    names_one = arguments and (not arguments[0].startswith("-") or arguments[0] in ("-h", "--help"))
    words = list(arguments) if names_one else ["list", *arguments]
    run_command(main, Command, SUBCOMMANDS["runs"], words, prog)  # type: ignore[arg-type]


def main(command: Command) -> None:
    """Lists or removes."""
    if isinstance(command, List):
        _list(command)
    else:
        _remove(command)


def _list(command: List) -> None:
    runs, others = runs_under(command.runs, TABLES)
    for error in others:
        print(f"skipped: {error}", file=sys.stderr)
    rows = [_row(each) for each in sorted(runs, key=lambda each: each.started_at)]
    if rows or command.format == "json":
        print(render(pd.DataFrame(rows, dtype=object), command.format))
    else:
        print(
            f"{command.runs}: no runs; --runs names another directory, `distsqz compare` makes a run",
            file=sys.stderr,
        )


def _row(run: Run) -> dict[str, Any]:
    return {
        "run": run.path.name,
        "started_at": run.meta["started_at"],
        "status": run.meta["status"],
        "cells": len(run.cells),
        "size_bytes": _size_bytes(run.path),
    }


def _size_bytes(directory: Path) -> int:
    """Size of all files in bytes. A file that is removed meanwhile counts as 0."""
    size_bytes = 0
    for file in directory.rglob("*"):
        with suppress(FileNotFoundError):
            size_bytes += file.stat().st_size if file.is_file() else 0
    return size_bytes


def _remove(command: Remove) -> None:
    if not command.run:
        raise RequestError("RUN: none given; name at least one, such as `distsqz runs list` shows them")
    runs = find_runs(command.run, command.runs)
    for each in runs:
        if each.meta["status"] == RUNNING and not command.force:
            raise RequestError(
                f"RUN {each.path.name}: has not ended (it is still going, or was killed); "
                "add --force to remove it"
            )
    for each in runs:
        shutil.rmtree(each.path)
        print(f"removed {each.path}", file=sys.stderr)
