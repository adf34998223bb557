"""A run directory: written as the run goes, readable at any moment, read back here.

`run.json` says what was run and how it ended; beside it stands one Parquet file a table of
`distsqz.metering.schema`. Every file is replaced whole and atomically, so a reader never meets half of one,
whatever becomes of the writer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
import typing
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from distsqz.errors import RequestError, RunError
from distsqz.interrupts import ignored_interrupts
from distsqz.metering.cores import cores_of_this_host, cpu_quota
from distsqz.metering.schema import SCHEMA_VERSION, TABLES, Record
from distsqz.run_entries import checked
from distsqz.training.checkpoint_names import checkpoint_name

RUNNING, COMPLETE, FAILED, INTERRUPTED = "running", "complete", "failed", "interrupted"

# Rewriting a table costs time that grows with the run. Waiting this many times the last write's duration
# before the next one keeps writing at one percent of the writer's time, however long the run.
WRITE_SPACING = 100

RUN_ID = b"run_id"
"""Key of a table's metadata that holds the id of the run it belongs to."""


@functools.cache
def arrow_schema(table: str) -> pa.Schema:
    """Columns and types of a table, from its record's fields."""
    record = TABLES[table]
    hints = typing.get_type_hints(record)
    arrow_types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = []
    for field in fields(record):
        alternatives = set(typing.get_args(hints[field.name]) or (hints[field.name],))
        nullable = type(None) in alternatives
        (kind,) = alternatives - {type(None)}
        columns.append(pa.field(field.name, arrow_types[kind], nullable=nullable))
    return pa.schema(columns)


class RunWriter:
    """Writes one run directory: append records as they come, flush now and then, finish once."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self._meta = meta
        self._written: dict[str, pa.Table] = {name: arrow_schema(name).empty_table() for name in TABLES}
        self._pending: dict[str, list[Record]] = defaultdict(list)
        self._unsaved: set[str] = set()
        self._next_flush = 0.0
        for name in TABLES:
            self._write_table(name)
        self._write_meta()  # with which the directory is a run, and so last

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        command: Sequence[str],
        options: Mapping[str, Any],
        cells: Iterable[Mapping[str, Any]] = (),
    ) -> RunWriter:
        """Makes `root/<run_id>/`, its id made of the time, `name` and a random tail.

        Raises:
            RequestError: the directory cannot be made or written.
        """
        started_at = datetime.now(UTC)
        run_id = f"{started_at:%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"
        path = root / run_id
        try:
            path.mkdir(parents=True)
            meta = {
                "schema_version": SCHEMA_VERSION,
                "run_id": run_id,
                "command": list(command),
                "git_commit": git_commit(),
                "started_at": started_at.isoformat(),
                "ended_at": None,
                "options": dict(options),
                "environment": environment(),
                "cells": [dict(cell) for cell in cells],
                "status": RUNNING,
                "error": None,
            }
            return cls(path, meta)
        except OSError as error:
            raise RequestError(
                f"--runs {root}: cannot write there ({error.strerror}); name a directory that you can write"
            ) from error

    def __enter__(self) -> RunWriter:
        """The run, under way."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Writes how it ended; a request refused before anything was measured leaves no run behind."""
        if error is None:
            self.finish(COMPLETE)
        elif isinstance(error, KeyboardInterrupt):
            self.finish(INTERRUPTED)
        elif isinstance(error, RequestError) and not self._measured():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.finish(FAILED, describe_error(error))

    def describe_cell(self, cell: str, facts: Mapping[str, Any]) -> None:
        """Adds to a cell's entry in run.json."""
        for entry in self._meta["cells"]:
            if entry["cell"] == cell:
                entry.update(facts)
        self._write_meta()

    def save_checkpoint(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Keeps a checkpoint's content as `checkpoints/<cell>-step-<step>.pt`; a long cell is shortened."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        part = folder / ".checkpoint.part"
        part.write_bytes(checkpoint)
        part.replace(folder / checkpoint_name(cell, step))

    def append(self, table: str, records: Iterable[Record]) -> None:
        """Takes records for a table; they reach the disk with the next flush."""
        self._pending[table].extend(records)

    def flush(self) -> None:
        """Writes what has been appended, unless the last write was so recent that it would cost the run."""
        if time.monotonic() >= self._next_flush:
            self._flush_now()

    def finish(self, status: str, error: Mapping[str, Any] | None = None) -> None:
        """Writes everything that is left, then how the run ended."""
        self._meta.update(status=status, error=error, ended_at=datetime.now(UTC).isoformat())
        with ignored_interrupts():
            try:
                self._flush_now()
                self._meta["rows"] = {name: table.num_rows for name, table in self._written.items()}
            finally:
                self._write_meta()

    def _measured(self) -> bool:
        return any(self._pending.values()) or any(table.num_rows for table in self._written.values())

    def _flush_now(self) -> None:
        start = time.monotonic()
        for name in TABLES:
            records = self._pending[name]
            if records:
                columns = {
                    column: [getattr(record, column) for record in records]
                    for column in arrow_schema(name).names
                }
                rows = pa.table(columns, schema=arrow_schema(name))
                self._written[name], self._pending[name] = pa.concat_tables([self._written[name], rows]), []
                self._unsaved.add(name)
            if name in self._unsaved:  # of now, or of a flush that was cut off
                self._write_table(name)
                self._unsaved.discard(name)
        self._next_flush = time.monotonic() + WRITE_SPACING * (time.monotonic() - start)

    def _write_table(self, name: str) -> None:
        part = self.path / f".{name}.parquet.part"
        pq.write_table(self._written[name].replace_schema_metadata({RUN_ID: self._meta["run_id"]}), part)
        part.replace(self.path / f"{name}.parquet")

    def _write_meta(self) -> None:
        _write_json(self.path, self._meta)


class Run:
    """A run directory read back, of a run that ended or one that is still going."""

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
            RequestError: there is no run at `path`, its run.json is damaged, or a newer distsqz wrote it.
        """
        self.path = path
        try:
            self.meta: dict[str, Any] = json.loads((path / "run.json").read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(
                f"{path}: not a run directory ({_reason(error)}); name one that holds a run.json"
            ) from error
        version = self.meta.get("schema_version") if isinstance(self.meta, dict) else None
        if version != SCHEMA_VERSION:
            raise RequestError(f"{path}: schema_version {version}, this distsqz reads {SCHEMA_VERSION}")
        try:
            self._entry = checked(self.meta)
        except ValueError as error:
            raise RequestError(f"{path}: run.json is damaged ({error})") from error

    @property
    def run_id(self) -> str:
        """The run's name: the time it started, its command, a random tail."""
        return self._entry.run_id

    @property
    def started_at(self) -> datetime:
        """When the run started, with its time zone."""
        return self._entry.started_at

    @property
    def cells(self) -> list[dict[str, Any]]:
        """What was measured: one entry a cell, as the session described it."""
        return list(self.meta["cells"])

    @property
    def error_text(self) -> str | None:
        """Why the run failed, in one line; None if no reason was written."""
        error = self._entry.error
        text = error.get("text") if isinstance(error, dict) else error
        return str(text).splitlines()[0] if text else None

    def table(self, name: str) -> pa.Table:
        """One of the tables of `distsqz.metering.schema`; empty if it is missing (`faults` names it then).

        A run may be older than a nullable column or a table: nothing is known of what it would hold.

        Raises:
            RequestError: the table is damaged, or belongs to another run.
        """
        schema = arrow_schema(name)
        table = self._read(name, pq.ParquetFile.read)
        if table is None:
            return schema.empty_table()
        for column in schema:
            if column.name not in table.column_names and column.nullable:
                table = table.append_column(column, pa.nulls(table.num_rows, column.type))
            self._check_column(name, table, column)
        return table.select(schema.names).replace_schema_metadata(None)

    def add_warnings(self, warnings: Sequence[str]) -> None:
        """Writes warnings about the run's figures into run.json, under `warnings`."""
        if warnings:
            self.meta["warnings"] = [*self.meta.get("warnings", []), *warnings]
            _write_json(self.path, self.meta)

    def faults(self) -> list[str]:
        """What is missing of the run's tables, in sentences; none for a run that is whole.

        Raises:
            RequestError: a table is damaged, or belongs to another run.
        """
        rows = {name: self._read(name, lambda file: file.metadata.num_rows) for name in TABLES}
        missing = [f"{name}.parquet" for name, found in rows.items() if found is None]
        lines = [
            f"Warning: {name}.parquet has {rows[name]:,} of the {wanted:,} rows that the run wrote."
            for name, wanted in self._entry.rows.items()
            if rows.get(name) not in (None, wanted)
        ]
        if missing:
            lines.append(f"Warning: the run has no {', no '.join(missing)}; what it held is unknown.")
        return lines

    def _read(self, name: str, read: Callable[[pq.ParquetFile], Any]) -> Any:
        """What `read` takes from a table's file; None if there is no file."""
        path = self.path / f"{name}.parquet"
        try:
            with path.open("rb") as content, pq.ParquetFile(content) as file:
                owner = (file.schema_arrow.metadata or {}).get(RUN_ID, self.run_id.encode()).decode()
                if owner != self.run_id:
                    raise RequestError(f"{path}: belongs to run {owner}; put that of {self.run_id} back")
                return read(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RequestError(
                f"{path}: cannot be read ({_reason(error)}); put the run's own file back, or remove this one"
            ) from error

    def _check_column(self, name: str, table: pa.Table, column: pa.Field) -> None:
        fault = None
        if column.name not in table.column_names:
            fault = f"has no column {column.name}"
        elif table.column_names.count(column.name) > 1:
            fault = f"has {column.name} twice"
        elif table[column.name].type != column.type:
            fault = f"has {column.name} as {table[column.name].type}, not {column.type}"
        elif table[column.name].null_count and not column.nullable:
            fault = f"has no value in some rows of {column.name}"
        if fault:
            raise RequestError(f"{self.path / name}.parquet: {fault}; it is no table of this program")


def _write_json(path: Path, meta: Mapping[str, Any]) -> None:
    """Replaces a run's run.json, whole or not at all."""
    part = path / ".run.json.part"
    part.write_text(json.dumps(meta, indent=2, default=str) + "\n")
    part.replace(path / "run.json")


def _reason(error: BaseException) -> str:
    """An error in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]


def runs_under(root: Path) -> tuple[list[Run], list[RequestError]]:
    """Every run in a directory of `root`, also where a symlink leads to it, once; and why others are none.

    Raises:
        RequestError: `root` cannot be read.
    """
    try:
        directories = sorted(root.iterdir()) if root.exists() else []
    except OSError as error:
        raise RequestError(f"{root}: cannot be read ({_reason(error)}); name a directory of runs") from error
    runs, others = [], []
    for path in dict.fromkeys(path.resolve() for path in directories if _may_be_run(path)):
        try:
            runs.append(Run(path))
        except RequestError as error:
            others.append(error)
    return runs, others


def _may_be_run(path: Path) -> bool:
    """Whether a run.json is in a directory, or nobody may look."""
    try:
        return (path / "run.json").is_file()
    except PermissionError:
        return True


def newest_run(root: Path) -> Path:
    """The run under `root` that was started last; what is no run is skipped, and named on stderr.

    Raises:
        RequestError: there is none.
    """
    runs, others = runs_under(root)
    reasons = "; ".join(map(str, others))
    if not runs:
        raise RequestError(
            f"{root}: no run there yet; make one with launch/ddp.py or launch/compare.py"
            + (f" (skipped: {reasons})" if others else "")
        )
    if others:
        print(f"skipped: {reasons}", file=sys.stderr)
    # Of a run and its copies, the one that has its own name.
    return max(runs, key=lambda run: (run.started_at, run.path.name == run.run_id)).path


def describe_error(error: BaseException) -> dict[str, Any]:
    """An error's entry in run.json: its one line, and where it happened as far as that is known."""
    where = {name: getattr(error, name, None) for name in ("cell", "host", "rank", "step")}
    text = (str(error).splitlines() or [""])[0]
    told = text if isinstance(error, RunError) else f"{type(error).__name__}: {text}"
    return {"text": told, **where}


def git_commit() -> str | None:
    """The commit that this code stands at, with `-dirty` where files differ; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed package may lie in somebody else's repository, of which it is no part.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True
        )
        output = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.stdout.strip() or None


class Environment(TypedDict):
    """The machine that drives a run, and the versions that a reader would need to run it again."""

    host: str
    platform: str
    """Kernel and C library."""
    python: str
    cpu: str | None
    """The model of the CPU; None where it cannot be read."""
    cores: int
    """Whole cores that CPU affinity and quota leave; at least 1."""
    cpu_quota: float | None
    """CPU quota of the driver's control groups, in cores; None where there is none."""
    memory_bytes: int
    versions: dict[str, str]
    """By package."""


def environment() -> Environment:
    """The environment of this process."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": cores_of_this_host(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": _versions("distsqz", "torch", "ray", "numpy", "pandas", "pyarrow"),
    }


def _versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
