"""Where a worker's records go between steps; who carries them is not training's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from distsqz.cell_facts import CellFacts
from distsqz.metering.schema import Record


class Outbox(Protocol):
    """Takes what a worker has to tell, without making it wait."""

    def put(self, records: Mapping[str, Sequence[Record]]) -> None:
        """Records by table."""

    def send(self) -> object:
        """Passes on what it keeps; called where the next records may take long to come."""

    def describe(self, cell: str, facts: CellFacts) -> None:
        """What only the workers know of a cell, for its entry in run.json."""

    def save(self, cell: str, step: int, checkpoint: bytes) -> None:
        """A checkpoint, as the bytes of its file."""
