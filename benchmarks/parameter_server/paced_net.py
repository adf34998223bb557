"""A model whose steps take a set time on every worker, and three times that on one of them."""

from __future__ import annotations

import time

import torch.distributed as dist
from torch import Tensor, nn

STEP_S = 0.05
SLOWER = 3
SLOW_RANK = 0


class EvenNet(nn.Module):
    """Hardly computes, but takes `STEP_S` for a forward pass, as on a device of its own."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.wide = nn.Linear(128, 1000)
        self.classes = nn.Linear(1000, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Waits as long as a slower device would compute."""
        if self.training:
            time.sleep(self.step_s())
        logits: Tensor = self.classes(self.wide(self.features(images)))
        return logits

    def step_s(self) -> float:
        """How long a forward pass takes on this worker."""
        return STEP_S


class UnevenNet(EvenNet):
    """One worker takes three times as long as the others."""

    def step_s(self) -> float:
        """Longer on the slow worker."""
        slow = dist.is_initialized() and dist.get_rank() == SLOW_RANK
        return STEP_S * (SLOWER if slow else 1)
