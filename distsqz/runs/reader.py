"""Reads the run directory of a run that has ended or is still going on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from distsqz.errors import RequestError
from distsqz.runs.arrow import RUN_ID, schema_of
from distsqz.runs.columns import Column, Tables
from distsqz.runs.entries import checked
from distsqz.runs.parts import live_parts
from distsqz.runs.writer import SCHEMA_VERSION, write_json

READABLE_VERSIONS = (1, SCHEMA_VERSION)
"""In schema 1 a table is a single file, and the columns are those of this program."""

_Part = TypeVar("_Part")


class Run:
    """The run directory of a run that has ended or is still going on."""

    def __init__(self, path: Path, tables: Tables) -> None:
        """Opens `path`.

        Args:
            path: directory of the run.
            tables: the columns that this program knows; an older run may lack some of them.

        Raises:
            RequestError: there is no run at `path`, its run.json is damaged, or a newer distsqz wrote it.
        """
        self.path = path
        self._known = tables
        try:
            self.meta: dict[str, Any] = json.loads((path / "run.json").read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(
                f"{path}: not a run directory ({reason_of(error)}); name one that holds a run.json"
            ) from error
        version = self.meta.get("schema_version") if isinstance(self.meta, dict) else None
        if version not in READABLE_VERSIONS:
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise RequestError(f"{path}: schema_version {version}, this distsqz reads {readable}")
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
        """Entries of the cells in run.json."""
        return list(self.meta["cells"])

    @property
    def error_text(self) -> str | None:
        """Why the run failed, in one line; None if no reason was written."""
        error = self._entry.error
        text = error.get("text") if isinstance(error, dict) else error
        return str(text).splitlines()[0] if text else None

    @property
    def tables(self) -> list[str]:
        """The names of the run's tables."""
        return list(self._entry.columns or self._known)

    def columns(self, table: str) -> tuple[Column, ...]:
        """Columns of a table; those of instruments that this program does not know come last.

        The run itself declares the columns that are unknown to this program (schema 2).
        """
        known = self._known.get(table, ())
        names = {column.name for column in known}
        declared = (entry.column() for entry in self._entry.columns.get(table, ()))
        return (*known, *(column for column in declared if column.name not in names))

    def table(self, name: str) -> pa.Table:
        """One of the run's tables, with all of `columns`; empty if it is missing (`faults` names it then).

        A run may be older than a nullable column or a table: nothing is known of what it would hold.

        Raises:
            RequestError: the table is damaged, or belongs to another run.
        """
        schema = schema_of(self.columns(name))
        parts = self._read(name, lambda part, file: self._conform(part, file.read(), schema))
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def add_warnings(self, warnings: Sequence[str]) -> None:
        """Writes warnings about the run's figures into run.json, under `warnings`."""
        if warnings:
            self.meta["warnings"] = [*self.meta.get("warnings", []), *warnings]
            write_json(self.path, self.meta)

    def faults(self) -> list[str]:
        """Warnings about missing tables and rows; none for a complete run.

        Raises:
            RequestError: a table is damaged, or belongs to another run.
        """
        parts = {name: self._read(name, lambda _, file: int(file.metadata.num_rows)) for name in self.tables}
        rows = {name: sum(counts) for name, counts in parts.items() if counts}
        missing = [f"{name}.parquet" for name in parts if name not in rows]
        lines = [
            f"Warning: {name}.parquet has {rows[name]:,} of the {wanted:,} rows that the run wrote."
            for name, wanted in self._entry.rows.items()
            if rows.get(name, wanted) != wanted
        ]
        if missing:
            lines.append(f"Warning: the run has no {', no '.join(missing)}; what it held is unknown.")
        return lines

    def _read(self, name: str, read: Callable[[Path, pq.ParquetFile], _Part]) -> list[_Part]:
        """Result of `read` for each part of a table; empty if there is no such table."""
        table = self.path / f"{name}.parquet"
        while True:
            parts = self._parts(table)
            try:
                return [self._read_part(part, read) for part in parts]
            except FileNotFoundError:
                if parts == self._parts(table):
                    raise
                # Else the run is still going, and the part was merged with others meanwhile.

    def _parts(self, table: Path) -> list[Path]:
        try:
            return live_parts(table)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unreadable(table, error) from error

    def _read_part(self, part: Path, read: Callable[[Path, pq.ParquetFile], _Part]) -> _Part:
        try:
            with part.open("rb") as content, pq.ParquetFile(content) as file:
                owner = (file.schema_arrow.metadata or {}).get(RUN_ID, self.run_id.encode()).decode()
                if owner != self.run_id:
                    raise RequestError(f"{part}: belongs to run {owner}; put that of {self.run_id} back")
                return read(part, file)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._unreadable(part, error) from error

    def _unreadable(self, path: Path, error: Exception) -> RequestError:
        return RequestError(
            f"{path}: cannot be read ({reason_of(error)}); put the run's own file back, or remove this one"
        )

    def _conform(self, part: Path, rows: pa.Table, schema: pa.Schema) -> pa.Table:
        """Rows with the columns of a schema in its order. Columns that are newer than the run are null."""
        for column in schema:
            if column.name not in rows.column_names and column.nullable:
                rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
            if fault := _fault(rows, column):
                raise RequestError(f"{part}: {fault}; it is no table of this program")
        return rows.select(schema.names).cast(schema).replace_schema_metadata(None)


def _fault(rows: pa.Table, column: pa.Field) -> str | None:
    """What is wrong with a column; None if nothing is."""
    if column.name not in rows.column_names:
        return f"has no column {column.name}"
    if rows.column_names.count(column.name) > 1:
        return f"has {column.name} twice"
    if rows[column.name].type != column.type:
        return f"has {column.name} as {rows[column.name].type}, not {column.type}"
    if rows[column.name].null_count and not column.nullable:
        return f"has no value in some rows of {column.name}"
    return None


def reason_of(error: BaseException) -> str:
    """An error's reason, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]
