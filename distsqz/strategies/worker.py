"""The part of a strategy that runs on a worker, as the trainer calls it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.metering.transfers import Account, Traffic, Transfer, TransferLog
from distsqz.strategies.optimizer import UpdateRule
from distsqz.strategies.strategy import Sent, Strategy
from distsqz.theory.exchange import crossing
from distsqz.theory.placement import Placement


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What the worker's part of a strategy is made with, besides the model."""

    options: Any
    """Options of the strategy, settled."""
    cell: str
    """Name of the cell."""
    rank: int
    placement: Placement
    """Hosts of workers and servers."""
    attempt: int = 0
    """Number of earlier starts of this rank."""
    joins: bool = False
    """Whether this worker replaces one that was lost while the others go on; it then has no process group."""
    address: str = "127.0.0.1"
    """Address of this host at which others reach it."""
    timeout_s: float = 60.0
    """Seconds within which a peer must answer."""
    step: int = 0
    """Step that this worker starts with."""
    rule: UpdateRule
    """How gradients change parameters."""
    optimizer: dict[str, Any] | None = None
    """State of the optimizer to resume with."""
    state: dict[str, Any] | None = None
    """State of this rank to resume with, as its `rank_state` gave it."""
    transfers: TransferLog | None = None
    """Log of transfers; None to record none."""
    servers: Any = None
    """The session's servers, for strategies that have some."""


class Synchronizer(Protocol):
    """Synchronises a replica; a step calls `begin`, `model` forward and backward, and `update`."""

    model: nn.Module
    """Module to call for the forward pass."""
    loss_divisor: int
    """What a worker's loss is divided by before its backward pass: the number of workers where gradients are
    summed, which costs nothing; 1 where they are averaged."""
    peers: PeerMeter | None
    """Meter of the connections that the strategy made; None if it uses those between ranks."""

    def accumulating(self) -> AbstractContextManager[None]:
        """Context of the backward passes of a step before its last one, after which nothing is sent."""

    def begin(self, step: int, lr: float) -> None:
        """Starts a step with a learning rate."""

    def update(self, *, settle: bool) -> None:
        """Ends a step after its backward pass.

        Args:
            settle: whether to wait until the new parameters have arrived.
        """

    def check(self) -> None:
        """Compares the parameters of all replicas between steps; raises DriftError if they differ."""

    @property
    def under_way(self) -> bool:
        """Whether a transfer of this step is still in progress."""

    def next_step(self, step: int) -> int:
        """Number of the step that follows `step`."""

    def staleness(self, step: int) -> int | None:
        """Number of updates by other workers that the update of a step missed; None until it is known."""

    def rank_state(self) -> dict[str, Any] | None:
        """What this rank alone keeps from one step to the next, such as errors of compression; None if
        nothing.
        """

    def optimizer_state(self) -> dict[str, Any]:
        """State of torch's optimizer for all parameters, as in a single process."""

    def close(self) -> None:
        """Closes connections."""


def account_of(strategy: Strategy, rank: int, placement: Placement) -> Account:
    """Gives what each transfer of a rank must cost under a strategy.

    Args:
        strategy: how replicas agree.
        rank: rank of the worker that makes the transfers.
        placement: hosts of workers and servers.
    """

    def account(transfer: Transfer) -> Traffic:
        sent = Sent(transfer.op, transfer.payload_bytes, transfer.peer)
        logical_tx_bytes, logical_rx_bytes = strategy.logical_bytes(sent)
        predicted = crossing(strategy.exchanges(sent, rank, placement), rank, placement)
        return Traffic(
            logical_tx_bytes=logical_tx_bytes,
            logical_rx_bytes=logical_rx_bytes,
            predicted_tx_bytes=round(predicted.tx_bytes),
            predicted_rx_bytes=round(predicted.rx_bytes),
            predicted_local_tx_bytes=round(predicted.local_tx_bytes),
            predicted_local_rx_bytes=round(predicted.local_rx_bytes),
        )

    return account
