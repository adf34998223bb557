"""A plain process group on loopback, without Ray: what trainers do does not depend on who launched them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement.group import join_group, leave_group
from benchmarks.agreement.local_servers import LocalServers, running_servers, start_processes
from distsqz.metering.schema import Record, StepRecord
from distsqz.runs.cell_facts import CellFacts
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.session import SessionPlan, train_session


@dataclass
class Box:
    """An outbox that keeps everything."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[tuple[str, int], bytes] = field(default_factory=dict)
    error: str | None = None

    def put(self, records: Mapping[str, Sequence[Record]]) -> None:
        for table, rows in records.items():
            self.records.setdefault(table, []).extend(rows)

    def send(self) -> None:
        pass

    def describe(self, cell: str, facts: CellFacts) -> None:
        self.facts.setdefault(cell, {}).update(facts.as_entry())

    def save(self, cell: str, step: int, checkpoint: bytes) -> None:
        self.checkpoints[cell, step] = checkpoint

    def steps(self, cell: str | None = None) -> list[StepRecord]:
        """Step records in the order they were made, of one cell or of all."""
        made = self.records.get("steps", [])
        return [each for each in made if isinstance(each, StepRecord) and cell in (None, each.cell)]

    def losses(self, cell: str | None = None) -> list[float]:
        return [step.loss for step in self.steps(cell)]

    def checkpoint(self, step: int) -> Checkpoint:
        (content,) = [content for (_, saved), content in self.checkpoints.items() if saved == step]
        return Checkpoint(**torch.load(io.BytesIO(content), weights_only=True))


def run_group(plan: SessionPlan, world_size: int, folder: Path) -> list[Box]:
    """Runs a session on `world_size` new processes, and its servers on more; gives each rank's box."""
    with running_servers(plan, folder):
        start_processes(_worker, (plan, world_size, folder), world_size)
    return [torch.load(folder / f"box-{rank}.pt", weights_only=False) for rank in range(world_size)]


def _worker(rank: int, plan: SessionPlan, world_size: int, folder: Path) -> None:
    replica = join_group(rank, world_size, folder, plan.server.shards if plan.server else 0)
    box = Box()
    try:
        servers = LocalServers(folder, plan.server.shards) if plan.server else None
        train_session(plan, replica, box, servers)
    except Exception as error:
        box.error = str(error)
    torch.save(box, folder / f"box-{rank}.pt")
    leave_group()
