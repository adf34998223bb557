"""A finished or running run as the report's sections read it: each of its tables once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pandas as pd

from distsqz.report.comparisons import compare_models, compare_options, compare_strategies
from distsqz.report.measured import measured_steps, measured_updates, of_steps
from distsqz.report.shipments import is_deployment, read_shipments
from distsqz.report.speedups import is_baseline, speedups
from distsqz.report.tables import CellTable, read_cells, read_links, read_shards, staleness_histogram
from distsqz.runs.reader import Run


class MeasuredRun:
    """A run with what the report computes from it, each result computed when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.run.run_id

    @property
    def shipped(self) -> bool:
        """Whether the run sent models to clients, and trained none."""
        return is_deployment(self.run)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The rows of `steps` that count."""
        return measured_steps(self.run)

    @cached_property
    def peers(self) -> pd.DataFrame:
        """The rows of `peers` that belong to steps that count."""
        return of_steps(self.run.table("peers").to_pandas(), self.steps)

    @cached_property
    def updates(self) -> pd.DataFrame:
        """The rows of `updates` that count."""
        return measured_updates(self.run, self.steps)

    @cached_property
    def _tables(self) -> list[CellTable]:
        return read_cells(self.run, self.steps, self.peers, self.updates)

    @property
    def cells(self) -> list[CellTable]:
        """What each cell measured, in the run's order, without baselines."""
        return [cell for cell in self._tables if not is_baseline(cell)]

    @property
    def baselines(self) -> list[CellTable]:
        """What each baseline measured: a model on one worker by itself."""
        return [cell for cell in self._tables if is_baseline(cell)]

    @cached_property
    def model_comparisons(self) -> list[dict[str, Any]]:
        """Larger models against smaller ones."""
        return compare_models(self.cells)

    @cached_property
    def strategy_comparisons(self) -> list[dict[str, Any]]:
        """Other strategies against all-reduce."""
        return compare_strategies(self.cells)

    @cached_property
    def option_comparisons(self) -> list[dict[str, Any]]:
        """Cells that differ in one option."""
        return compare_options(self.cells)

    @cached_property
    def speedups(self) -> list[dict[str, Any]]:
        """Each cell that has a baseline against it."""
        return speedups(self.cells, self.baselines)

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
        return read_shards(self.run, self.updates)

    @cached_property
    def staleness(self) -> list[dict[str, Any]]:
        """Number of updates at each staleness: other updates that their gradients had not seen."""
        return staleness_histogram(self.run, self.updates)

    @cached_property
    def shipments(self) -> list[dict[str, Any]]:
        """What sending each model to the clients cost, of a run that shipped."""
        return read_shipments(self.run)
