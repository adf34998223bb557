"""The interface between a trainer and the strategy that synchronises its replica with the others."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.metering.transfers import Traffic, Transfer


class Strategy(Protocol):
    """Synchronises a replica; a step calls `begin`, `model` forward and backward, and `update`."""

    model: nn.Module
    """Module to call for the forward pass. Its gradients are summed over workers, or applied one worker at a
    time."""
    peers: PeerMeter | None
    """Meter of the connections that the strategy made; None if it uses those between ranks."""

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

    def account(self, transfer: Transfer) -> Traffic:
        """The bytes that a transfer must cost."""

    def optimizer_state(self) -> dict[str, Any]:
        """State of torch's SGD for all parameters, as in a single process."""

    def close(self) -> None:
        """Closes connections."""
