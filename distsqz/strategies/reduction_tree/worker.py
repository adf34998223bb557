"""The reduction tree on a worker."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from distsqz.strategies.agreement import adopt_rank_0
from distsqz.strategies.local_replica import LocalReplica
from distsqz.strategies.optimizer import LocalOptimizer
from distsqz.strategies.reduction_tree.tree import children_of, parent_of
from distsqz.strategies.worker import WorkerContext


class TreeReplica(LocalReplica):
    """A replica whose gradients are summed over a tree of ranks after its backward pass."""

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Joins the other replicas of the default group, on which the model has the values of rank 0."""
        adopt_rank_0(module)
        super().__init__(module, LocalOptimizer(module, context.rule, context.optimizer))
        self.model = module
        self.loss_divisor = len(context.placement.workers)
        self._parent = parent_of(context.rank)
        self._children = children_of(context.rank, self.loss_divisor)
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

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
        self.optimizer.update()

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
