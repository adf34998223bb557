"""Writes a run directory while the run goes on. The cost of a write depends on what is new, not on what is
there.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from distsqz.errors import InvalidValue, RequestError, RunError
from distsqz.interrupts import ignored_interrupts
from distsqz.runs.arrow import RUN_ID, schema_of
from distsqz.runs.checkpoint_names import checkpoint_name
from distsqz.runs.columns import Column, Row, Tables
from distsqz.runs.environment import environment, git_commit
from distsqz.runs.parts import PartWriter

SCHEMA_VERSION = 2
"""1: a table is one file. 2: a table is a folder of parts, and run.json holds the meaning of its columns."""

RUNNING, COMPLETE, FAILED, INTERRUPTED = "running", "complete", "failed", "interrupted"


class RunWriter:
    """Writes one run directory: `append` takes records, `flush` writes them, `finish` ends the run."""

    def __init__(self, path: Path, meta: dict[str, Any], tables: Tables) -> None:
        self.path = path
        self._meta = meta
        path.mkdir(parents=True)
        self._tables = {
            name: _Table(path / f"{name}.parquet", columns, meta["run_id"])
            for name, columns in tables.items()
        }
        self._write_meta()  # with which the directory is a run, and so last

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        command: Sequence[str],
        options: Mapping[str, Any],
        cells: Iterable[Mapping[str, Any]] = (),
        *,
        tables: Tables,
    ) -> RunWriter:
        """Makes `root/<run_id>/`, its id made of the time, `name` and a random tail, with empty `tables`.

        Raises:
            RequestError: the directory cannot be made or written.
        """
        started_at = datetime.now(UTC)
        run_id = f"{started_at:%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"
        path = root / run_id
        try:
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
                "columns": {name: [asdict(each) for each in columns] for name, columns in tables.items()},
            }
            return cls(path, meta, tables)
        except OSError as error:
            raise InvalidValue(
                "runs", root, f"cannot write there ({error.strerror}); name a directory that you can write"
            ) from error

    def __enter__(self) -> RunWriter:
        """Returns the writer."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Writes how the run ended. A request that is refused before anything was measured leaves no run
        behind.
        """
        if error is None:
            self.finish(COMPLETE)
        elif isinstance(error, KeyboardInterrupt):
            self.finish(INTERRUPTED)
        elif isinstance(error, RequestError) and not self._measured():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.finish(FAILED, describe_error(error))

    def describe_cell(self, cell: str, facts: Mapping[str, Any]) -> None:
        """Adds facts to a cell's entry in run.json.

        Raises:
            KeyError: the run has no such cell.
        """
        entries = {entry["cell"]: entry for entry in self._meta["cells"]}
        entries[cell].update(facts)
        self._write_meta()

    def save_checkpoint(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Writes a checkpoint to `checkpoints/<cell>-step-<step>.pt`; a long name of a cell is shortened."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        part = folder / ".checkpoint.part"
        part.write_bytes(checkpoint)
        part.replace(folder / checkpoint_name(cell, step))

    def append(self, table: str, records: Iterable[Row]) -> None:
        """Takes records for a table. The next flush writes them to disk."""
        self._tables[table].append(records)

    def flush(self) -> None:
        """Writes all records that were appended since the last flush."""
        for table in self._tables.values():
            table.flush()

    def finish(self, status: str, error: Mapping[str, Any] | None = None) -> None:
        """Writes all remaining records, then how the run ended."""
        self._meta.update(status=status, error=error, ended_at=datetime.now(UTC).isoformat())
        with ignored_interrupts():
            try:
                self.flush()
                self._meta["rows"] = {name: table.rows for name, table in self._tables.items()}
                with suppress(OSError):  # such as on a full disk: many parts are read as well as one
                    for table in self._tables.values():
                        table.compact()
            finally:
                self._write_meta()

    def _measured(self) -> bool:
        return any(table.appended for table in self._tables.values())

    def _write_meta(self) -> None:
        write_json(self.path, self._meta)


class _Progress(NamedTuple):
    """Progress of a table. It is replaced as a whole, so that an interrupt leaves it consistent."""

    parts: int
    rows: int
    waiting: list[Row]
    """Records for the next flush."""


class _Table:
    """One table of a run. Records wait for the next flush, which writes them to disk as a part."""

    def __init__(self, path: Path, columns: Sequence[Column], run_id: str) -> None:
        self._schema = schema_of(columns).with_metadata({RUN_ID: run_id})
        self._parts = PartWriter(path, self._schema)
        self._progress = _Progress(parts=1, rows=0, waiting=[])

    @property
    def rows(self) -> int:
        """Number of rows on disk."""
        return self._progress.rows

    @property
    def appended(self) -> bool:
        """Whether there is any record, on disk or waiting."""
        return bool(self._progress.rows or self._progress.waiting)

    def append(self, records: Iterable[Row]) -> None:
        self._progress.waiting.extend(records)

    def flush(self) -> None:
        index, rows, records = self._progress
        if records:
            part = pa.Table.from_pylist([record.values() for record in records], schema=self._schema)
            # After an interrupt just behind this line, the next flush writes the same part again, and more.
            self._parts.write(index, part)
            self._progress = _Progress(index + 1, rows + len(records), [])
            self._parts.merge_if_due(index)

    def compact(self) -> None:
        self._parts.compact()


def describe_error(error: BaseException) -> dict[str, Any]:
    """Entry of an error in run.json: its line, and cell, host, rank and step if known."""
    where = {name: getattr(error, name, None) for name in ("cell", "host", "rank", "step")}
    text = (str(error).splitlines() or [""])[0]
    line = text if isinstance(error, RunError) else f"{type(error).__name__}: {text}"
    return {"text": line, **where}


def write_json(path: Path, meta: Mapping[str, Any]) -> None:
    """Replaces a run's run.json, whole or not at all."""
    part = path / ".run.json.part"
    part.write_text(json.dumps(meta, indent=2, default=str) + "\n")
    part.replace(path / "run.json")
