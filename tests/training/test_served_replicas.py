"""What workers and the servers of a parameter server tell each other beside gradients and parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from group import Box, join_group, leave_group

from benchmarks.agreement.local_servers import LocalServers, running_servers, start_processes
from distsqz.metering.clock import HostClock
from distsqz.metering.meter import Instruments
from distsqz.strategies.agreement import DriftError
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan
from distsqz.training.trainer import Trainer


def plan_of(model: str, workers: int, server: ServerOptions, **changes: Any) -> SessionPlan:
    options = TrainingOptions(
        image_size=32, num_classes=10, batch_size=4, steps=2, warmup_steps=0, threads=1, **changes
    )
    return plan_session([f"brought_models:{model}"], workers, options, [server])[0]


def instruments() -> Instruments:
    return Instruments(clock=HostClock())


def test_a_worker_that_replaces_another_begins_with_the_newest_buffers_that_rank_0_has_left(
    tmp_path: Path,
) -> None:
    server = ParameterServer(ServerOptions(servers=2, consistency="async"))
    plan = plan_of("FreshBuffer", 1, server, checkpoint_every=2)
    with running_servers(plan, tmp_path):
        start_processes(_replaced, (plan, tmp_path), 1)
    at_start, at_checkpoint, replaced_at_start, replaced_later = torch.load(tmp_path / "buffers.pt")
    assert not torch.equal(at_start["norm.bn.running_mean"], at_checkpoint["norm.bn.running_mean"])
    for name in at_start:
        assert torch.equal(replaced_at_start[name], at_start[name]), name
        assert torch.equal(replaced_later[name], at_checkpoint[name]), name


def _replaced(rank: int, plan: SessionPlan, folder: Path) -> None:
    """Saves a worker's buffers at the start and at the checkpoint, and those of two that take its place."""
    place, (cell,) = join_group(rank, 1, folder, plan.cells[0].strategy.options.servers), plan.cells

    def trainer(attempt: int) -> Trainer:
        replica = replace(place, attempt=attempt, joins=attempt > 0)
        return Trainer(cell, replica, instruments(), Box(), None, None, LocalServers(folder, 2))

    def buffers(trainer: Trainer) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in trainer._module.named_buffers()}

    lost = trainer(0)
    at_start, replaced_at_start = buffers(lost), buffers(replacement := trainer(1))
    replacement.run(2)
    torch.save(
        [at_start, buffers(replacement), replaced_at_start, buffers(trainer(2))], folder / "buffers.pt"
    )
    leave_group()


class CountedServers(LocalServers):
    """Servers that count how often they are asked for digests."""

    asked = 0

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        self.asked += 1
        return super().digests(cell)


def test_rank_0_alone_compares_with_the_shards_and_names_what_differs(tmp_path: Path) -> None:
    plan = plan_of("Norm", 2, ParameterServer(ServerOptions(servers=2)))
    with running_servers(plan, tmp_path):
        start_processes(_compared, (plan, tmp_path), 2)
    assert [torch.load(tmp_path / f"compared-{rank}.pt") for rank in range(2)] == [
        (2, "the values of fc.bias on rank 0 and on its shard differ, and should not"),
        (0, None),
    ]


def _compared(rank: int, plan: SessionPlan, folder: Path) -> None:
    """Compares twice, the second time after the same change on both ranks; saves what came of it."""
    place, servers, (cell,) = join_group(rank, 2, folder, 2), CountedServers(folder, 2), plan.cells
    trainer = Trainer(cell, place, instruments(), Box(), None, None, servers)
    trainer._sync.check()
    trainer._module.get_parameter("fc.bias").detach().add_(1)
    difference = None
    try:
        trainer._sync.check()
    except DriftError as error:
        difference = str(error)
    torch.save((servers.asked, difference), folder / f"compared-{rank}.pt")
    dist.barrier()
    trainer.close()
    leave_group()
