"""A finished or running run as the report's sections read it: each of its tables once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from distsqz.report.tables import CellTable, read_cells, read_links, read_shards, staleness_histogram
from distsqz.runs import Run


class MeasuredRun:
    """A run with what the report computes from it, each result computed when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.run.run_id

    @cached_property
    def cells(self) -> list[CellTable]:
        """What each cell measured, in the run's order."""
        return read_cells(self.run)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The row of each cell."""
        return [cell.row for cell in self.cells]

    @cached_property
    def links(self) -> list[dict[str, Any]]:
        """What each path between two hosts carried before training."""
        return read_links(self.run)

    @cached_property
    def shards(self) -> list[dict[str, Any]]:
        """What each shard of a parameter server had to do."""
        return read_shards(self.run)

    @cached_property
    def staleness(self) -> list[dict[str, Any]]:
        """Updates by the number of other updates that they had missed."""
        return staleness_histogram(self.run)
