"""The actor between workers and driver: workers drop records and go on, the driver picks them up."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from distsqz.metering.schema import Record
from distsqz.runs.cell_facts import CellFacts

SEND_EVERY_S = 0.5
"""How long a worker keeps records. With the driver's pick-up and flush every second, a step is on disk within
two seconds of its end."""


@dataclass(kw_only=True)
class Delivery:
    """All that workers have dropped since the last pick-up."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By cell: what `CellFacts` add to its entry in run.json."""
    checkpoints: list[tuple[str, int, bytes]] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    """Ids of the processes that train."""


@ray.remote(num_cpus=0)
class Collector:
    """Holds what workers drop until the driver takes it."""

    def __init__(self) -> None:
        self._delivery = Delivery()
        self._newest_checkpoint: dict[str, bytes] = {}

    def put(self, records: Mapping[str, Sequence[Record]]) -> None:
        """Takes records by table."""
        for table, rows in records.items():
            self._delivery.records.setdefault(table, []).extend(rows)

    def describe(self, cell: str, facts: CellFacts) -> None:
        """Takes facts of a cell."""
        self._delivery.facts.setdefault(cell, {}).update(facts.as_entry())

    def save(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Takes a checkpoint's bytes."""
        self._delivery.checkpoints.append((cell, step, checkpoint))
        self._newest_checkpoint[cell] = checkpoint

    def newest_checkpoint(self, cell: str) -> bytes | None:
        """A cell's that came last, for those who have to go back to it."""
        return self._newest_checkpoint.get(cell)

    def enlist(self, pid: int) -> None:
        """Takes the process id of a worker that begins."""
        self._delivery.pids.append(pid)

    def take(self) -> Delivery:
        """Everything dropped since the last call."""
        taken, self._delivery = self._delivery, Delivery()
        return taken


class CollectorOutbox:
    """A worker's outbox: keeps records in memory and sends them twice a second, between steps."""

    def __init__(self, collector: Any) -> None:
        self._collector = collector
        self._kept: dict[str, list[Record]] = {}
        self._put_at = time.monotonic()
        self._send_at = self._put_at + SEND_EVERY_S
        collector.enlist.remote(os.getpid())

    def put(self, records: Mapping[str, Sequence[Record]]) -> None:
        """Keeps records; sends all that are kept where the next call is likely to come too late for them."""
        for table, rows in records.items():
            self._kept.setdefault(table, []).extend(rows)
        before, self._put_at = self._put_at, time.monotonic()
        if self._put_at + (self._put_at - before) >= self._send_at:
            self.send()

    def describe(self, cell: str, facts: CellFacts) -> None:
        """Sends facts of a cell."""
        self._collector.describe.remote(cell, facts)

    def save(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Sends a checkpoint, after the records of the steps that led to it."""
        self.send()
        self._collector.save.remote(cell, step, checkpoint)

    def close(self) -> None:
        """Sends what is left, waiting until it has arrived."""
        ray.get(self.send())

    def send(self) -> Any:
        """Sends all that is kept; returns Ray's reference to the call."""
        reference = self._collector.put.remote(self._kept)
        self._kept = {}
        self._send_at = time.monotonic() + SEND_EVERY_S
        return reference
