"""What a trainer asks of whatever keeps its replica in agreement with the others."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.metering.transfers import Traffic, Transfer


class Strategy(Protocol):
    """Called at fixed places of every step: `begin`, forward and backward pass of `model`, `update`."""

    model: nn.Module
    """To be called for the forward pass; its gradients are summed over the workers, or applied alone."""
    peers: PeerMeter | None
    """The connections that the strategy made for itself; None where it uses those between the ranks."""

    def begin(self, step: int, lr: float) -> None:
        """A step begins, with this learning rate."""

    def update(self, *, settle: bool) -> None:
        """The backward pass is over; `settle` asks that the new parameters be here on return."""

    def check(self) -> None:
        """Compares what all replicas hold, between steps; raises DriftError where it is not the same."""

    @property
    def under_way(self) -> bool:
        """Whether anything that was sent for this step has not come back yet."""

    def next_step(self, step: int) -> int:
        """The step to make after `step`."""

    def staleness(self, step: int) -> int | None:
        """Updates by others that a step's own missed; None while that is not known."""

    def account(self, transfer: Transfer) -> Traffic:
        """What a transfer must cost."""

    def optimizer_state(self) -> dict[str, Any]:
        """The state of torch's SGD over all parameters, as it would be in one process."""

    def close(self) -> None:
        """Lets go of connections."""
