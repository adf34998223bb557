"""The strategy of a worker that has its parameters from a parameter server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.metering.transfers import Traffic, Transfer, TransferLog
from distsqz.sync.agreement import check_alike, check_parameters
from distsqz.sync.client import PULL, PUSH, ServerClient
from distsqz.sync.consistency import Consistency
from distsqz.sync.flat import layout_of, trained, views
from distsqz.sync.pair import WORKER_END, Pair, StoreAddress, shard_name
from distsqz.sync.sgd import sgd_of
from distsqz.theory.placement import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """Where a shard is."""

    store: StoreAddress
    host: str


class Servers(Protocol):
    """The shards of a session, as a worker knows them."""

    places: Sequence[ShardPlace]
    """By shard."""

    def admit(self, cell: str, rank: int, name: str, step: int) -> None:
        """Asks every shard to connect to a worker that begins with `step`, under a name; does not wait."""

    def parameters(self, cell: str) -> torch.Tensor:
        """A cell's parameters as they are now: chunks x chunk_elements."""

    def momentum(self, cell: str) -> torch.Tensor:
        """The optimizer's momentum of them, likewise."""

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        """A digest of each piece of a cell's parameters, by the piece's parameter and first element."""

    def progress(self, cell: str, rank: int) -> int:
        """Steps that a worker of a cell has finished, though it may be gone."""

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        """Stores a cell's buffers by name, for workers that join later."""

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        """The buffers that were stored last."""


class ParameterServer:
    """A replica whose parameters live on shards."""

    def __init__(
        self,
        module: nn.Module,
        servers: Servers,
        *,
        cell: str,
        rank: int,
        placement: Placement,
        attempt: int,
        address: str,
        consistency: Consistency,
        momentum: float,
        weight_decay: float,
        step: int,
        timeout_s: float,
        transfers: TransferLog | None = None,
    ) -> None:
        """Connects to every shard.

        Args:
            module: the model, with the parameters that the shards have, on every worker.
            servers: its shards.
            cell: what is trained.
            rank: this worker's.
            placement: hosts of workers and shards.
            attempt: how often this rank was started before.
            address: of this host, where shards reach it.
            consistency: what the shards promise.
            momentum: of SGD.
            weight_decay: of SGD.
            step: that this worker begins with.
            timeout_s: how long a shard may take to answer.
            transfers: where each push and pull is noted.
        """
        self._module = module
        self._servers = servers
        self._cell = cell
        self._rank = rank
        self._local_shards = [shard_name(index) for index in placement.local_shards(rank)]
        self._consistency = consistency
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._layout = layout_of(module, len(servers.places), len(placement.workers))
        name = f"{cell}/{rank}/{attempt}"
        servers.admit(cell, rank, name, step)
        stores = [place.store.connect() for place in servers.places]
        pairs = [Pair.connect(store, name, WORKER_END, address) for store in stores]
        self.peers: PeerMeter | None = PeerMeter(
            {shard_name(index): pair.connections for index, pair in enumerate(pairs)},
            local=self._local_shards,
        )
        self._client = ServerClient(module, self._layout, pairs, consistency, step, transfers, timeout_s)
        self.model: nn.Module = self._client.model

    def begin(self, step: int, lr: float) -> None:
        """A step begins, with this learning rate."""
        self._client.begin(step, lr)

    def update(self, *, settle: bool) -> None:
        """Pushes what has not been; the shards update."""
        self._client.finish(wait_for_answers=settle or self._consistency.backup_workers > 0)

    def check(self) -> None:
        """Compares the parameters of all workers, and on rank 0 with those of the shards.

        Raises:
            DriftError: a parameter differs between two workers, or between rank 0 and the shards.
        """
        check_parameters(self._module)
        if self._rank != 0:
            return  # it has rank 0's values, and no update is made without rank 0
        shards, mine = self._servers.digests(self._cell), self._client.digests()
        for (parameter, begin), value in mine.items():
            name = self._client.name_of(parameter)
            check_alike({name: value}, {name: shards[parameter, begin]}, "rank 0", "its shard")

    @property
    def under_way(self) -> bool:
        """Whether a chunk that was pushed has not come back yet."""
        return self._client.under_way

    def next_step(self, step: int) -> int:
        """The next one, or where updates were made without this worker, the one that they lead to."""
        return max(step + 1, self._client.version) if self._consistency.backup_workers else step + 1

    def staleness(self, step: int) -> int | None:
        """The most that any chunk's update missed, once all are answered."""
        return self._client.staleness(step)

    def account(self, transfer: Transfer) -> Traffic:
        """A push sends its payload, a pull receives it."""
        pushed = transfer.payload_bytes if transfer.op == PUSH else 0
        pulled = transfer.payload_bytes if transfer.op == PULL else 0
        crosses = transfer.peer not in self._local_shards
        return Traffic(
            logical_tx_bytes=pushed,
            logical_rx_bytes=pulled,
            predicted_tx_bytes=pushed if crosses else 0,
            predicted_rx_bytes=pulled if crosses else 0,
            predicted_local_tx_bytes=0 if crosses else pushed,
            predicted_local_rx_bytes=0 if crosses else pulled,
        )

    def optimizer_state(self) -> dict[str, Any]:
        """The shards' momentum, put together."""
        optimizer = sgd_of(self.model, self._momentum, self._weight_decay)
        learnt = trained(self.model)
        momentum = views(self._servers.momentum(self._cell).view(-1), learnt)
        for parameter, buffer in zip(learnt, momentum, strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer
        return optimizer.state_dict()

    def close(self) -> None:
        """Leaves the shards."""
        self._client.close()
