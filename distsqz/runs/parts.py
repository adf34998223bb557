"""A table of a run on disk: a folder of Parquet files, its parts, each written whole and never changed.

New rows become a new part. So that a long run does not end with thousands of files, every `MERGE_EVERY` parts
become one. A merged part is named after the first and the last part in it and replaces them: a reader
ignores parts that lie within another one, which are about to be removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MERGE_EVERY = 60
"""Parts that are merged into one while a run goes on: a minute's, at a flush a second. The number is fixed,
so that the cost of a merge does not grow with the run."""
ROW_GROUP_ROWS = 65_536
"""Number of rows that a merge holds in memory."""

_NAME = re.compile(r"part-(\d{5,})(?:-(\d{5,}))?\.parquet")


def live_parts(table: Path) -> list[Path]:
    """Files of a table in the order in which they were written.

    A table of schema 1 is a single file.

    Raises:
        FileNotFoundError: there is no table.
    """
    if table.is_file():
        return [table]
    spans = _spans(table)
    # Of those that begin alike the longest first, so that it is seen before what it replaces.
    ordered = sorted(spans, key=lambda path: (spans[path][0], -spans[path][1]))
    live: list[Path] = []
    for path in ordered:
        if not live or spans[path][1] > spans[live[-1]][1]:
            live.append(path)
    return live


class PartWriter:
    """Writes the parts of one table; begins with an empty one, which tells readers the columns."""

    def __init__(self, table: Path, schema: pa.Schema) -> None:
        self._table = table
        self._schema = schema
        table.mkdir()
        self.write(0, schema.empty_table())

    def write(self, index: int, rows: pa.Table) -> None:
        """Writes part `index`, whole or not at all; the same index again replaces the part."""
        path = self._table / f"part-{index:05d}.parquet"
        unfinished = path.with_name(f".{path.name}")  # which nobody reads
        pq.write_table(rows, unfinished)
        unfinished.replace(path)

    def merge_if_due(self, index: int) -> None:
        """Makes one file of the last `MERGE_EVERY` parts where part `index` completes them."""
        if (index + 1) % MERGE_EVERY == 0:
            self._merge([part for part in live_parts(self._table) if not _is_merged(part)])

    def compact(self) -> None:
        """Makes one file of all parts."""
        if parts := live_parts(self._table):
            self._merge(parts)

    def _merge(self, parts: Sequence[Path]) -> None:
        """Replaces consecutive parts by one; their rows pass through memory a row group at a time."""
        first, last = _span(parts[0]), _span(parts[-1])
        assert first and last
        span = (first[0], last[1])
        merged = parts[0]
        if len(parts) > 1:
            merged = self._table / f"part-{span[0]:05d}-{span[1]:05d}.parquet"
            unfinished = merged.with_name(f".{merged.name}")
            with pq.ParquetWriter(unfinished, self._schema) as file:
                for rows in _in_row_groups(parts):
                    file.write_table(rows)
            unfinished.replace(merged)
            pa.default_memory_pool().release_unused()  # or the driver keeps what the merge took
        for path, (begin, end) in _spans(self._table).items():
            if path != merged and span[0] <= begin and end <= span[1]:
                path.unlink()


def _in_row_groups(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """Rows of parts in tables of at least `ROW_GROUP_ROWS`, except for the last."""
    waiting: list[pa.Table] = []
    for part in parts:
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                waiting.append(file.read_row_group(group))
                if sum(each.num_rows for each in waiting) >= ROW_GROUP_ROWS:
                    yield pa.concat_tables(waiting)
                    waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _spans(table: Path) -> dict[Path, tuple[int, int]]:
    """The part files of a table, with the first and the last part that each holds."""
    return {path: span for path in table.iterdir() if (span := _span(path))}


def _span(path: Path) -> tuple[int, int] | None:
    """The first and the last part that a file holds; None if it is no part."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or match[1])) if match else None


def _is_merged(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    return bool(match and match[2])
