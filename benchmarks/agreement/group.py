"""Trains many cells on one group of processes on loopback, without Ray; and each of them in one process."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.nn import functional as F

from benchmarks.agreement.local_servers import LocalServers, nothing, running_servers, start_processes
from distsqz.data import train_batches
from distsqz.metering.clock import HostClock
from distsqz.metering.meter import Instruments
from distsqz.metering.schema import Record
from distsqz.runs.cell_facts import CellFacts
from distsqz.theory.placement import Placement
from distsqz.training.cell import Cell
from distsqz.training.replica import Replica
from distsqz.training.session import SessionPlan
from distsqz.training.trainer import Trainer

Values = Mapping[str, torch.Tensor]
"""The last values of a model's parameters and buffers, by name."""

Outcome = Values | str
"""What a rank trained, or why it failed."""

PATIENCE_S = 8.0
"""How long a rank waits for a shard that another rank has left in the middle of a step."""


def train_each(
    plans: Sequence[SessionPlan],
    world_size: int,
    folder: Path,
    prepare: Callable[[], None] = nothing,
) -> list[dict[str, list[Outcome]]]:
    """Trains the cells of several plans, one after the other, on new processes.

    Args:
        plans: what to train. A plan's cells share its servers.
        world_size: number of workers.
        folder: an existing, empty folder, where the processes meet.
        prepare: called first in every worker and server; must be picklable.

    Returns:
        Each plan's outcomes, by cell and rank.
    """
    with ExitStack() as stack:
        for index, plan in enumerate(plans):
            (folder / f"plan-{index}").mkdir()
            stack.enter_context(running_servers(plan, folder / f"plan-{index}", prepare))
        start_processes(_train_each, (plans, world_size, folder, prepare), world_size)
    by_rank = [torch.load(folder / f"outcomes-{rank}.pt") for rank in range(world_size)]
    return [
        {cell.name: [outcomes[index][cell.name] for outcomes in by_rank] for cell in plan.cells}
        for index, plan in enumerate(plans)
    ]


def trained_in_one_process(cell: Cell) -> Values:
    """The cell's training by torch alone, with the parameters and with rank 0's buffers at its end.

    The ranks' images pass through the model one rank after the other, with each rank's seed and buffers.
    Their gradients are averaged, and torch's SGD makes the update.
    """
    model, recipe, options = cell.build_replica(), cell.recipe(), cell.options
    memory_format = cell.memory_format(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    data = cell.open_data().train
    ranks = range(cell.world_size)
    batches = [
        train_batches(
            data, rank=rank, world_size=len(ranks), batch_size=options.batch_size, seed=options.seed
        )
        for rank in ranks
    ]
    buffers = [[buffer.clone() for buffer in model.buffers()] for _ in ranks]
    for step in range(cell.total_steps):
        optimizer.zero_grad(set_to_none=True)
        parameters = [parameter.detach().clone() for parameter in model.parameters()]
        for rank in ranks:
            images, labels = next(batches[rank])
            _seed(options.seed, rank, step)
            _put(model.buffers(), buffers[rank])
            _put(model.parameters(), parameters)  # the rank before may have written to them in forward()
            logits = model(images.to(memory_format=memory_format))
            logits = logits if logits.dtype == torch.float64 else logits.float()
            (F.cross_entropy(logits, labels) / len(ranks)).backward()  # type: ignore[no-untyped-call]
            buffers[rank] = [buffer.clone() for buffer in model.buffers()]
        optimizer.step()
    _put(model.buffers(), buffers[0])
    return {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def _seed(seed: int, rank: int, step: int) -> None:
    """Seeds every generator that a model may draw from, as a rank does before its step."""
    state = int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])
    torch.manual_seed(state)
    np.random.seed(state % 2**32)
    random.seed(state)


def _put(tensors: Iterable[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def join_group(rank: int, world_size: int, folder: Path, shards: int = 0) -> Replica:
    """Makes this process a rank of a new group that meets in `folder`, beside a number of shards."""
    host = socket.gethostname()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever this machine's name resolves to
    store = FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    return Replica(
        rank=rank,
        placement=Placement(workers=[host] * world_size, shards=[host] * shards),
        cores=world_size,
        device="cpu",
        address="127.0.0.1",
        interface="lo",
        timeout_s=PATIENCE_S,
    )


def leave_group() -> None:
    """Ends this process at once: Gloo's threads now and then crash an interpreter that shuts down."""
    dist.destroy_process_group()
    os._exit(0)


class _NoOutbox:
    """An outbox that keeps nothing."""

    def put(self, records: Mapping[str, Sequence[Record]]) -> None:
        """Drops records."""

    def send(self) -> None:
        """Has nothing to send."""

    def describe(self, cell: str, facts: CellFacts) -> None:
        """Drops facts."""

    def save(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Drops a checkpoint."""


def _train_each(
    rank: int, plans: Sequence[SessionPlan], world_size: int, folder: Path, prepare: Callable[[], None]
) -> None:
    prepare()
    shards = max(plan.server.shards if plan.server else 0 for plan in plans)
    replica = join_group(rank, world_size, folder, shards)
    torch.set_num_threads(1)
    outcomes: list[dict[str, Outcome]] = []
    for index, plan in enumerate(plans):
        servers = LocalServers(folder / f"plan-{index}", plan.server.shards) if plan.server else None
        outcomes.append({cell.name: _trained(plan, cell, replica, servers) for cell in plan.cells})
    torch.save(outcomes, folder / f"outcomes-{rank}.pt")
    leave_group()


def _trained(plan: SessionPlan, cell: Cell, replica: Replica, servers: LocalServers | None) -> Outcome:
    outcome: Outcome
    with ExitStack() as stack:
        try:
            instruments, weights = Instruments(clock=HostClock()), plan.weights.get(cell.name)
            trainer = Trainer(cell, replica, instruments, _NoOutbox(), weights, None, servers)
            stack.callback(trainer.close)
            dist.barrier()
            trainer.check()
            trainer.run(trainer.remaining)
            module = trainer._module
            outcome = {
                name: value.detach().clone()
                for name, value in [*module.named_parameters(), *module.named_buffers()]
            }
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        dist.barrier()
    return outcome
