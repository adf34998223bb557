"""A run directory: written as the run goes, readable at any moment, read back here.

`run.json` says what was run and how it ended; beside it stands one Parquet file a table of
`distsqz.metering.schema`. Every file is replaced whole and atomically, so a reader never meets half of one,
whatever becomes of the writer.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
import typing
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

RUNNING, COMPLETE, FAILED, INTERRUPTED = "running", "complete", "failed", "interrupted"

# Rewriting a table costs time that grows with the run. Waiting this many times the last write's duration
# before the next one keeps writing at one percent of the writer's time, however long the run.
WRITE_SPACING = 100


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
        self._write_meta()
        for name in TABLES:
            self._write_table(name)

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
        """Keeps a checkpoint's content as `checkpoints/<cell>-step-<step>.pt`."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        part = folder / f".{cell}.part"
        part.write_bytes(checkpoint)
        part.replace(folder / f"{cell}-step-{step:08d}.pt")

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
        pq.write_table(self._written[name], part)
        part.replace(self.path / f"{name}.parquet")

    def _write_meta(self) -> None:
        part = self.path / ".run.json.part"
        part.write_text(json.dumps(self._meta, indent=2, default=str) + "\n")
        part.replace(self.path / "run.json")


class Run:
    """A run directory read back, of a run that ended or one that is still going."""

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
            RequestError: there is no run at `path`, or it was written by a newer distsqz.
        """
        self.path = path
        try:
            self.meta: dict[str, Any] = json.loads((path / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise RequestError(
                f"{path}: not a run directory ({error}); name one that holds a run.json"
            ) from error
        version = self.meta.get("schema_version") if isinstance(self.meta, dict) else None
        if version != SCHEMA_VERSION:
            raise RequestError(f"{path}: schema_version {version}, this distsqz reads {SCHEMA_VERSION}")

    @property
    def run_id(self) -> str:
        """The run's name: the time it started, its command, a random tail."""
        return str(self.meta["run_id"])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """What was measured: one entry a cell, as the session described it."""
        return list(self.meta["cells"])

    def table(self, name: str) -> pa.Table:
        """One of the tables of `distsqz.metering.schema`; empty if nothing was written to it.

        A run may be older than a nullable column or a table: nothing is known of what it would hold.
        """
        path, schema = self.path / f"{name}.parquet", arrow_schema(name)
        if not path.exists():
            return schema.empty_table()
        table = pq.read_table(path)
        for column in schema:
            if column.nullable and column.name not in table.column_names:
                table = table.append_column(column, pa.nulls(table.num_rows, column.type))
        return table.select(schema.names)


def newest_run(root: Path) -> Path:
    """The run under `root` that was started last.

    Raises:
        RequestError: there is none.
    """
    runs = sorted(path.parent for path in root.glob("*/run.json"))
    if not runs:
        raise RequestError(f"{root}: no run there yet; make one with launch/ddp.py or launch/compare.py")
    return runs[-1]


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
        "versions": {name: metadata.version(name) for name in ("torch", "ray", "numpy", "pandas", "pyarrow")},
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
