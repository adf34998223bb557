"""The parameter server strategy, on a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.strategies.agreement import adopt_buffers, adopt_rank_0, check_alike, check_parameters
from distsqz.strategies.parameter_server.channel import WORKER_END, DuplexChannel, StoreAddress
from distsqz.strategies.parameter_server.client import ServerClient
from distsqz.strategies.parameter_server.flat import layout_of, load_rows, tensor_views, trained
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.sgd import sgd_of
from distsqz.strategies.worker import WorkerContext
from distsqz.theory.placement import shard_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """Location of a shard."""

    store: StoreAddress
    host: str
    """Label of the host."""


class Servers(Protocol):
    """The shards of a session, as a worker reaches them."""

    places: Sequence[ShardPlace]
    """Locations of the shards, by index."""

    def admit(self, cell: str, rank: int, name: str, step: int) -> None:
        """Asks every shard to connect to a worker that starts with `step`, and returns at once."""

    def parameters(self, cell: str) -> torch.Tensor:
        """The current parameters of a cell: [chunks, chunk_elements]."""

    def momentum(self, cell: str) -> torch.Tensor:
        """The optimizer's momentum of a cell: [chunks, chunk_elements]."""

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        """Digest of each piece of a cell's parameters, by parameter and first element."""

    def progress(self, cell: str, rank: int) -> int:
        """Number of steps that a worker of a cell has finished; the worker may be gone."""

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        """Stores a cell's buffers by name, for workers that join later."""

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        """The buffers that were stored last."""


class ServedReplica:
    """A replica whose parameters are owned by shards."""

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Connects to every shard. A worker that joins late takes the shards' values."""
        options: ServerOptions = context.options
        servers: Servers = context.servers
        cell, rank, placement = context.cell, context.rank, context.placement
        if not context.joins:
            adopt_rank_0(module)
        self._module = module
        self._servers = servers
        self._cell = cell
        self._rank = rank
        self._local_shards = [shard_name(index) for index in placement.local_shards(rank)]
        self._consistency = options.agreement
        self._momentum = context.rule.momentum
        self._weight_decay = context.rule.weight_decay
        self.loss_divisor = len(placement.workers)  # shards sum
        self._layout = layout_of(module, len(servers.places), len(placement.workers))
        name = f"{cell}/{rank}/{context.attempt}"
        servers.admit(cell, rank, name, context.step)
        stores = [place.store.connect() for place in servers.places]
        channels = [DuplexChannel.connect(store, name, WORKER_END, context.address) for store in stores]
        self.peers: PeerMeter | None = PeerMeter(
            {shard_name(index): channel.connections for index, channel in enumerate(channels)},
            local=self._local_shards,
        )
        self._client = ServerClient(
            module,
            self._layout,
            channels,
            self._consistency,
            context.step,
            context.transfers,
            context.timeout_s,
        )
        self.model: nn.Module = self._client.model
        if context.joins:
            load_rows(servers.parameters(cell), module)
            adopt_buffers(module, servers.buffers(cell))

    def accumulating(self) -> AbstractContextManager[None]:
        """Raises AssertionError: the strategy refuses steps of several backward passes."""
        raise AssertionError("a gradient is pushed as soon as it is complete")

    def begin(self, step: int, lr: float) -> None:
        """Starts a step with a learning rate."""
        self._client.begin(step, lr)

    def update(self, *, settle: bool) -> None:
        """Pushes the remaining gradients, from which the shards update.

        Args:
            settle: whether to wait until the new parameters have arrived.
        """
        self._client.finish(wait_for_answers=settle or self._consistency.backup_workers > 0)

    def check(self) -> None:
        """Compares the parameters of all workers, and on rank 0 with those of the shards.

        Raises:
            DriftError: a parameter differs between two workers, or between rank 0 and the shards.
        """
        check_parameters(self._module)
        if self._rank != 0:
            return  # other ranks hold the same values as rank 0
        shards, mine = self._servers.digests(self._cell), self._client.digests()
        for (parameter, begin), value in mine.items():
            name = self._client.name_of(parameter)
            check_alike({name: value}, {name: shards[parameter, begin]}, "rank 0", "its shard")

    @property
    def under_way(self) -> bool:
        """Whether the answer to a push is still outstanding."""
        return self._client.under_way

    def next_step(self, step: int) -> int:
        """Number of the next step. Updates that were made without this worker are skipped."""
        return max(step + 1, self._client.version) if self._consistency.backup_workers else step + 1

    def staleness(self, step: int) -> int | None:
        """Largest number of updates by others that a push of the step missed; None until all are answered."""
        return self._client.staleness(step)

    def rank_state(self) -> None:
        """Nothing is kept on this rank alone from one step to the next."""

    def optimizer_state(self) -> dict[str, Any]:
        """State of torch's SGD, with the momentum of all shards."""
        optimizer = sgd_of(self.model, self._momentum, self._weight_decay)
        learnt = trained(self.model)
        momentum = tensor_views(self._servers.momentum(self._cell).view(-1), learnt)
        for parameter, buffer in zip(learnt, momentum, strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer
        return optimizer.state_dict()

    def close(self) -> None:
        """Disconnects from the shards."""
        self._client.close()
