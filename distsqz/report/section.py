"""A section of the report: rows, columns and sentences, stated once for every format.

A section is a module of `distsqz.report.sections` with a function `section`, and a line in that package's
registry. Terminal, markdown, csv, json, latex and HTML are made from what the function returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from distsqz.report.measured_run import MeasuredRun

Format = Literal["table", "markdown", "csv", "json", "latex"]
"""A format of a report."""

Row = dict[str, Any]
"""Values by column; a value that is not known is None."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one part of the report states about the runs, independent of how it is printed."""

    key: str
    """Key of the section, unique among the sections; also that of its rows in JSON unless `json_key` is
    set."""
    title: str
    """Heading of the section, short and without a full stop."""
    columns: tuple[str, ...] = ()
    """Columns that people see, in order; JSON has every key of a row. Empty for a section of sentences only.
    A name carries its unit (`step_s`, `tcp_tx_bytes`), which decides how its numbers are shown."""
    headings: Mapping[str, str] = field(default_factory=dict)
    """Headings that replace a column's name, by column, with the unit at their end."""
    identifying: int = 1
    """Number of leading columns that identify a row. They are repeated if a table is split."""
    rows: tuple[Row, ...] = ()
    """All rows, in the order of JSON."""
    shown: tuple[int, ...] | None = None
    """Positions in `rows` of those that people see, in order; None for all."""
    sentences: tuple[str, ...] = ()
    """Findings, which are printed before all tables."""
    notes: tuple[str, ...] = ()
    """Notes that a reader needs to understand or to trust the table, which are printed below it."""
    noteworthy: bool = True
    """False where the rows say nothing that a reader would miss (shards with equal loads): the terminal
    leaves the table out, and files keep it."""
    in_csv: bool = False
    """Whether csv, which has a single table, holds the rows of this section."""
    json_key: str | None = None
    """Key of the rows in JSON where it is not `key`: that of an earlier section with the same rows."""
    in_run: bool = False
    """Whether JSON keeps each row in the entry of its run (`run_id` of the row) rather than at the top."""

    @property
    def rows_key(self) -> str:
        """Key of the rows in JSON."""
        return self.json_key or self.key

    def visible(self) -> Iterator[int]:
        """Positions in `rows` of the rows that people see, in the order in which they see them."""
        yield from range(len(self.rows)) if self.shown is None else self.shown

    def addresses(self, run_ids: Sequence[str]) -> list[str]:
        """Where each row stands in JSON, such as `cells.0` or `runs.1.links.3`.

        Args:
            run_ids: the ids of the report's runs, in their order.
        """
        if not self.in_run:
            return [f"{self.rows_key}.{index}" for index in range(len(self.rows))]
        counts = dict.fromkeys(run_ids, 0)
        places = []
        for row in self.rows:
            run_id = row["run_id"]
            places.append(f"runs.{run_ids.index(run_id)}.{self.rows_key}.{counts[run_id]}")
            counts[run_id] += 1
        return places


SectionBuilder = Callable[[Sequence["MeasuredRun"]], Section]
"""What makes a section: the function `section` of a module of `distsqz.report.sections`."""
