"""Interface through which a worker hands over records between steps. Its implementations carry them
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from distsqz.metering.schema import Record
from distsqz.runs.cell_facts import CellFacts


class Outbox(Protocol):
    """Takes a worker's records without making it wait."""

    def put(self, records: Mapping[str, Sequence[Record]]) -> None:
        """Takes records by table."""

    def send(self) -> object:
        """Sends what has been collected; called when the next records may take long."""

    def describe(self, cell: str, facts: CellFacts) -> None:
        """Takes facts that only workers know of a cell, for its entry in run.json."""

    def save(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Takes a checkpoint as the bytes of its file."""
