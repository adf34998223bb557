"""A single replica that trains by itself: what one host computes where nothing has to be synchronised."""

from __future__ import annotations

from torch import nn

from distsqz.strategies.local_replica import LocalReplica
from distsqz.strategies.optimizer import LocalOptimizer
from distsqz.strategies.worker import WorkerContext


class LoneReplica(LocalReplica):
    """A replica without others."""

    loss_divisor: int = 1

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Prepares the optimizer of a model."""
        super().__init__(module, LocalOptimizer(module, context.rule))
        self.model = module

    def update(self, *, settle: bool) -> None:  # noqa: ARG002
        """Updates the parameters that have a gradient."""
        self.optimizer.update()

    def check(self) -> None:
        """Does nothing: there is no other replica."""
