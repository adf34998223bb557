"""A single replica that trains by itself: what one host computes where nothing has to be synchronised."""

from __future__ import annotations

from typing import Any

from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.strategies.sgd import sgd_of
from distsqz.strategies.worker import WorkerContext


class LoneReplica:
    """A replica without others, with its own optimizer."""

    model: nn.Module
    peers: PeerMeter | None = None
    loss_divisor: int = 1

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Prepares the optimizer of a model."""
        self.model = module
        self._optimizer = sgd_of(module, context.momentum, context.weight_decay)
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def begin(self, step: int, lr: float) -> None:  # noqa: ARG002
        """Starts a step with a learning rate."""
        self._optimizer.param_groups[0]["lr"] = lr

    def update(self, *, settle: bool) -> None:  # noqa: ARG002
        """Updates the parameters that have a gradient."""
        (group,) = self._optimizer.param_groups
        if group["fused"] and any(parameter.grad is None for parameter in self._trained):
            group["fused"] = False  # torch's fused SGD fails where a parameter has its first gradient later
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

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
        """State of torch's SGD."""
        return self._optimizer.state_dict()

    def close(self) -> None:
        """Does nothing: there are no connections."""
