"""The reduction tree on a worker."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from distsqz.metering.tcp import PeerMeter
from distsqz.strategies.agreement import adopt_rank_0, check_parameters
from distsqz.strategies.optimizer import LocalOptimizer
from distsqz.strategies.reduction_tree.tree import children_of, parent_of
from distsqz.strategies.worker import WorkerContext


class TreeReplica:
    """A replica whose gradients are summed over a tree of ranks after its backward pass."""

    model: nn.Module
    peers: PeerMeter | None = None
    loss_divisor: int

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Joins the other replicas of the default group, on which the model has the values of rank 0."""
        adopt_rank_0(module)
        self.model = module
        self.loss_divisor = len(context.placement.workers)
        self._parent = parent_of(context.rank)
        self._children = children_of(context.rank, self.loss_divisor)
        self._transfers = context.transfers
        self._optimizer = LocalOptimizer(module, context.rule, context.optimizer)
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def accumulating(self) -> AbstractContextManager[None]:
        """Changes nothing: gradients add up, and are sent after the last backward pass."""
        return nullcontext()

    def begin(self, step: int, lr: float) -> None:  # noqa: ARG002
        """Starts a step with a learning rate."""
        self._optimizer.set_lr(lr)

    def update(self, *, settle: bool) -> None:  # noqa: ARG002
        """Sums all gradients over the ranks and updates the parameters."""
        for parameter in self._trained:
            if parameter.grad is None:  # every rank must send as much as the others expect
                parameter.grad = torch.zeros_like(parameter)
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for parameter in self._trained:
            assert parameter.grad is not None
            by_type.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            self._sum(gradients)
        self._optimizer.update()

    def _sum(self, gradients: list[torch.Tensor]) -> None:
        """Replaces gradients of one data type by their sums over the ranks."""
        sums = torch.cat([gradient.flatten() for gradient in gradients])
        for child in self._children:
            received = torch.empty_like(sums)
            dist.recv(received, src=child)
            sums += received
        if self._parent is not None:
            dist.send(sums, dst=self._parent)
            dist.recv(sums, src=self._parent)
        for child in reversed(self._children):  # the one with the most ranks below it first
            dist.send(sums, dst=child)
        parts = torch.split(sums, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def check(self) -> None:
        """Compares the parameters of all ranks.

        Raises:
            DriftError: a parameter differs between two ranks.
        """
        check_parameters(self.model)

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

    def rank_state(self) -> None:
        """Nothing is kept on this rank alone from one step to the next."""

    def optimizer_state(self) -> dict[str, Any]:
        """State of torch's optimizer."""
        return self._optimizer.state()

    def close(self) -> None:
        """Does nothing: the connections belong to the default group."""
