"""A replica that updates its own parameters, in steps that every rank makes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.strategies.agreement import check_parameters
from distsqz.strategies.optimizer import LocalOptimizer


class LocalReplica:
    """What such replicas have in common: a subclass makes its gradients those of all ranks, and updates."""

    peers: PeerMeter | None = None

    def __init__(self, module: nn.Module, optimizer: LocalOptimizer) -> None:
        """Takes a model, and the optimizer of its parameters."""
        self.module = module
        self.optimizer = optimizer

    def accumulating(self) -> AbstractContextManager[None]:
        """Changes nothing: gradients add up until they are synchronised."""
        return nullcontext()

    def begin(self, step: int, lr: float) -> None:  # noqa: ARG002
        """Starts a step with a learning rate."""
        self.optimizer.set_lr(lr)

    def check(self) -> None:
        """Compares the parameters of all ranks.

        Raises:
            DriftError: a parameter differs between two ranks.
        """
        check_parameters(self.module)

    @property
    def under_way(self) -> bool:
        """Always False: all transfers end before the update."""
        return False

    def next_step(self, step: int) -> int:
        """Number of the next step; all ranks make every step."""
        return step + 1

    def staleness(self, step: int) -> int:  # noqa: ARG002
        """Always 0: every update includes all gradients."""
        return 0

    def rank_state(self) -> dict[str, Any] | None:
        """Nothing is kept on this rank alone from one step to the next."""
        return None

    def optimizer_state(self) -> dict[str, Any]:
        """State of torch's optimizer."""
        return self.optimizer.state()

    def close(self) -> None:
        """Does nothing: the connections belong to the default group."""
