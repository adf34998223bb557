"""A single replica that trains by itself: what one host computes where nothing has to be synchronised."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.strategies.optimizer import LocalOptimizer
from distsqz.strategies.worker import WorkerContext


class LoneReplica:
    """A replica without others, with its own optimizer."""

    model: nn.Module
    peers: PeerMeter | None = None
    loss_divisor: int = 1

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Prepares the optimizer of a model."""
        self.model = module
        self._optimizer = LocalOptimizer(module, context.rule)

    def accumulating(self) -> AbstractContextManager[None]:
        """Changes nothing: gradients add up."""
        return nullcontext()

    def begin(self, step: int, lr: float) -> None:  # noqa: ARG002
        """Starts a step with a learning rate."""
        self._optimizer.set_lr(lr)

    def update(self, *, settle: bool) -> None:  # noqa: ARG002
        """Updates the parameters that have a gradient."""
        self._optimizer.update()

    def check(self) -> None:
        """Does nothing: there is no other replica."""

    @property
    def under_way(self) -> bool:
        """Always False: nothing is transferred."""
        return False

    def next_step(self, step: int) -> int:
        """Number of the next step."""
        return step + 1

    def staleness(self, step: int) -> int:  # noqa: ARG002
        """Always 0: there are no other updates."""
        return 0

    def rank_state(self) -> None:
        """Nothing is kept on this rank alone from one step to the next."""

    def optimizer_state(self) -> dict[str, Any]:
        """State of torch's optimizer."""
        return self._optimizer.state()

    def close(self) -> None:
        """Does nothing: there are no connections."""
