"""How each family of networks is trained: learning rate and its schedule, momentum, weight decay.

Sources: SqueezeNet_v1.0/solver.prototxt of the SqueezeNet release, and Caffe's
models/bvlc_alexnet/solver.prototxt.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of stochastic gradient descent."""

    lr: float
    """The learning rate to begin with."""
    batch: int
    """The global batch, in samples, that `lr` is for."""
    momentum: float
    weight_decay: float
    schedule: Callable[[float], float]
    """Progress through the training, from 0 to 1 -> the factor on `lr`."""

    def lr_at(self, step: int, total_steps: int) -> float:
        """The learning rate of `step`, counted from 0, of a training of `total_steps`."""
        return self.lr * self.schedule(min(step / total_steps, 1.0))


def linear_decay(progress: float) -> float:
    """Caffe's polynomial decay of power 1: from 1 straight down to 0."""
    return 1.0 - progress


# Divided as a step is by the total, so that a step on the boundary compares equal to it.
_ALEXNET_DROPS = tuple(drop * 100_000 / 450_000 for drop in (1, 2, 3, 4))


def alexnet_steps(progress: float) -> float:
    """A tenth every 100,000 of 450,000 iterations."""
    return 0.1 ** bisect_right(_ALEXNET_DROPS, progress)


def constant(_progress: float) -> float:
    """No schedule."""
    return 1.0


SQUEEZENET = Recipe(lr=0.04, batch=512, momentum=0.9, weight_decay=2e-4, schedule=linear_decay)
ALEXNET = Recipe(lr=0.01, batch=256, momentum=0.9, weight_decay=5e-4, schedule=alexnet_steps)
OWN_MODEL = Recipe(lr=0.01, batch=256, momentum=0.9, weight_decay=1e-4, schedule=constant)
"""For a model that brings no recipe: cautious enough for most networks, and the best for few."""
