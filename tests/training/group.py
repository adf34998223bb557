"""A plain process group on loopback, without Ray: what trainers do does not depend on who launched them."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from local_servers import LocalServers, running_servers

from distsqz.metering.clock import HostClock
from distsqz.metering.meter import Instruments
from distsqz.metering.schema import Record, StepRecord
from distsqz.theory.placement import Placement
from distsqz.training.cell import Cell
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.replica import Replica
from distsqz.training.session import SessionPlan, run_session
from distsqz.training.trainer import Trainer


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

    def describe(self, cell: str, facts: Mapping[str, Any]) -> None:
        self.facts[cell] = dict(facts)

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
        mp.spawn(_worker, args=(plan, world_size, folder), nprocs=world_size)
    return [torch.load(folder / f"box-{rank}.pt", weights_only=False) for rank in range(world_size)]


Outcome = Mapping[str, torch.Tensor] | str
"""The last values of a cell's parameters and buffers, or why it failed."""


def train_each(plans: Sequence[SessionPlan], world_size: int, folder: Path) -> list[dict[str, list[Outcome]]]:
    """Trains the cells of several plans one after the other; gives each plan's outcomes by cell and rank."""
    with ExitStack() as stack:
        for index, plan in enumerate(plans):
            (folder / f"plan-{index}").mkdir()
            stack.enter_context(running_servers(plan, folder / f"plan-{index}"))
        mp.spawn(_train_each, args=(plans, world_size, folder), nprocs=world_size)
    by_rank = [torch.load(folder / f"outcomes-{rank}.pt") for rank in range(world_size)]
    return [
        {cell.name: [outcomes[index][cell.name] for outcomes in by_rank] for cell in plan.cells}
        for index, plan in enumerate(plans)
    ]


PATIENCE_S = 8.0
"""How long a rank waits for a shard that another rank has left in the midst of a step."""


def join_group(rank: int, world_size: int, folder: Path) -> Replica:
    """Makes this process a rank of a new group."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever this machine's name resolves to
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    return Replica(
        rank=rank,
        placement=Placement(workers=[socket.gethostname()] * world_size),
        cores=world_size,
        device="cpu",
        address="127.0.0.1",
        interface="lo",
        timeout_s=PATIENCE_S,
    )


def _train_each(rank: int, plans: Sequence[SessionPlan], world_size: int, folder: Path) -> None:
    replica = join_group(rank, world_size, folder)
    torch.set_num_threads(1)
    outcomes: list[dict[str, Outcome]] = []
    for index, plan in enumerate(plans):
        servers = LocalServers(folder / f"plan-{index}", plan.server.shards) if plan.server else None
        outcomes.append({cell.name: _trained(plan, cell, replica, servers) for cell in plan.cells})
    torch.save(outcomes, folder / f"outcomes-{rank}.pt")
    leave_group()


def _trained(plan: SessionPlan, cell: Cell, replica: Replica, servers: LocalServers | None) -> Outcome:
    with ExitStack() as stack:
        try:
            instruments, weights = Instruments(clock=HostClock()), plan.weights.get(cell.name)
            trainer = Trainer(cell, replica, instruments, Box(), weights, None, servers)
            stack.callback(trainer.close)
            dist.barrier()
            trainer.check()
            trainer.run(trainer.remaining)
            module = trainer._module
            outcome: Outcome = {
                name: value.detach().clone()
                for name, value in [*module.named_parameters(), *module.named_buffers()]
            }
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        dist.barrier()
    return outcome


def _worker(rank: int, plan: SessionPlan, world_size: int, folder: Path) -> None:
    replica = join_group(rank, world_size, folder)
    box = Box()
    try:
        servers = LocalServers(folder, plan.server.shards) if plan.server else None
        run_session(plan, replica, box, servers)
    except Exception as error:
        box.error = str(error)
    torch.save(box, folder / f"box-{rank}.pt")
    leave_group()


def leave_group() -> None:
    """Ends this process at once: Gloo's threads now and then crash an interpreter that winds up."""
    dist.destroy_process_group()
    os._exit(0)
