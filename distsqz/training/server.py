"""One server process of a session: a shard of every cell that trains through a parameter server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import nn

from distsqz.metering.schema import UpdateRecord
from distsqz.strategies.parameter_server.channel import open_store
from distsqz.strategies.parameter_server.flat import layout_of, to_rows, trained
from distsqz.strategies.parameter_server.shard import Shard, ShardSettings
from distsqz.strategies.parameter_server.worker import ShardPlace
from distsqz.training.cell import Cell
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.session import SessionPlan


class Server:
    """Holds this server's shards and the store where workers meet them."""

    def __init__(
        self,
        plan: SessionPlan,
        index: int,
        host: str,
        address: str,
        report: Callable[[UpdateRecord], None] | None = None,
        attempt: int = 0,
    ) -> None:
        """Builds the shards of the plan's cells.

        Args:
            plan: of the session.
            index: which server this is.
            host: its name.
            address: of its interface, where workers reach it.
            report: takes a record of every push; called from several threads.
            attempt: how often servers and workers together were started before.
        """
        torch.set_num_threads(1)  # sums of chunks that come one by one; the cores are the workers'
        self._address = address
        self._buffers: dict[str, Mapping[str, torch.Tensor]] = {}
        self._store, store_address = open_store(address)
        self.place = ShardPlace(store=store_address, host=host)
        self._shards = {
            cell.name: _shard(plan, cell, index, host, report, attempt)
            for cell in plan.cells
            if cell.server is not None
        }

    def admit(self, cell: str, rank: int, name: str, step: int) -> None:
        """Begins to connect to a worker; returns at once."""
        threading.Thread(
            target=self._shards[cell].admit,
            args=(rank, self._store, name, self._address, step),
            daemon=True,
        ).start()

    def parameters(self, cell: str) -> dict[int, torch.Tensor]:
        """The parameters by chunk."""
        return self._shards[cell].parameters()

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        """Digest of each piece that the server owns, by the piece's parameter and first element."""
        return self._shards[cell].digests()

    def progress(self, cell: str, rank: int) -> int:
        """Number of steps that a worker has finished."""
        return self._shards[cell].progress(rank)

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        """Stores a cell's buffers for workers that join later."""
        self._buffers[cell] = buffers

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        """The buffers of a cell that were stored last."""
        return self._buffers[cell]

    def momentum(self, cell: str) -> dict[int, torch.Tensor]:
        """The optimizer's momentum by chunk."""
        return self._shards[cell].momentum()


def _shard(
    plan: SessionPlan,
    cell: Cell,
    index: int,
    host: str,
    report: Callable[[UpdateRecord], None] | None,
    attempt: int,
) -> Shard:
    assert cell.server is not None
    module = cell.build_replica(plan.weights.get(cell.name), plan.resume)
    layout = layout_of(module, cell.server.shards, cell.world_size)
    owned = layout.owned_by(index)
    learnt = trained(module)
    rows = to_rows(learnt, layout, owned)
    momentum = to_rows(_momentum(plan.resume, module), layout, owned) if plan.resume else None
    del module, learnt  # a server is to stay within three times what it owns
    recipe = cell.recipe()
    settings = ShardSettings(
        cell=cell.name,
        workers=cell.world_size,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        consistency=cell.server.agreement,
        attempt=attempt,
    )
    return Shard(
        index,
        rows,
        layout,
        settings,
        host,
        momentum=momentum,
        version=plan.resume.step if plan.resume else 0,
        report=report,
    )


def _momentum(checkpoint: Checkpoint, module: nn.Module) -> list[torch.Tensor]:
    """Momentum of every trained parameter in a checkpoint, in the parameter's memory order."""
    state = checkpoint.optimizer["state"]
    found = []
    for index, parameter in enumerate(module.parameters()):
        if parameter.requires_grad:
            buffer = state.get(index, {}).get("momentum_buffer")
            momentum = torch.zeros_like(parameter, requires_grad=False)
            found.append(momentum if buffer is None else momentum.copy_(buffer))
    return found
