"""The optimizer of a replica that updates its own parameters."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distsqz.strategies.sgd import can_fuse, sgd_of

ADAPTIVE = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How gradients change parameters."""

    optimizer: str = "sgd"
    """sgd, adam or adamw, each as in torch."""
    momentum: float = 0.0
    """Momentum of SGD."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Norm of all gradients together above which they are scaled down to it; None: never."""


class LocalOptimizer:
    """Torch's optimizer of one replica, with clipping."""

    def __init__(
        self,
        module: nn.Module,
        rule: UpdateRule,
        state: dict[str, Any] | None = None,
        *,
        all_used: bool = True,
    ) -> None:
        """Prepares the optimizer of all parameters of a model.

        Args:
            module: the model.
            rule: how gradients change parameters.
            state: state to resume with.
            all_used: whether every trained parameter has a gradient in every step.
        """
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._clip_norm = rule.clip_norm
        if rule.optimizer == "sgd":
            self._torch: torch.optim.Optimizer = sgd_of(
                module, rule.momentum, rule.weight_decay, all_used=all_used
            )
        else:
            self._torch = ADAPTIVE[rule.optimizer](
                module.parameters(),
                lr=0.0,
                weight_decay=rule.weight_decay,
                fused=all_used and can_fuse(self._trained),
            )
        if state:
            fused = self._group["fused"]
            # A copy, because the optimizer updates the given tensors, which workers may share.
            self._torch.load_state_dict(copy.deepcopy(state))
            self._group["fused"] = fused

    @property
    def _group(self) -> dict[str, Any]:
        (group,) = self._torch.param_groups
        return group

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the next update."""
        self._group["lr"] = lr

    def update(self) -> None:
        """Updates the parameters that have a gradient, and drops the gradients."""
        if self._group["fused"] and any(parameter.grad is None for parameter in self._trained):
            self._group["fused"] = False  # torch's fused kernels fail where a first gradient comes later
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self._clip_norm)
        self._torch.step()
        self._torch.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """State of torch's optimizer."""
        return self._torch.state_dict()
