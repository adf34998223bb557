"""Training recipes of the network families: learning rate, schedule, momentum, weight decay.

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
    """Initial learning rate."""
    batch: int
    """Global batch size, in samples, for which `lr` is meant."""
    momentum: float
    weight_decay: float
    schedule: Callable[[float], float]
    """Factor on `lr`, given the progress of training from 0 to 1."""

    def lr_at(self, step: int, total_steps: int) -> float:
        """Learning rate of a step, counted from 0, in a training of `total_steps` steps."""
        return self.lr * self.schedule(min(step / total_steps, 1.0))


def linear_decay(progress: float) -> float:
    """Caffe's polynomial decay of power 1: linear from 1 to 0."""
    return 1.0 - progress


# Computed like the progress of a step, so that a step on a boundary compares equal to it.
_ALEXNET_DROPS = tuple(drop * 100_000 / 450_000 for drop in (1, 2, 3, 4))


def alexnet_steps(progress: float) -> float:
    """Division by ten after every 100,000 of 450,000 iterations."""
    return 0.1 ** bisect_right(_ALEXNET_DROPS, progress)


def constant(_progress: float) -> float:
    """A constant learning rate."""
    return 1.0


SQUEEZENET = Recipe(lr=0.04, batch=512, momentum=0.9, weight_decay=2e-4, schedule=linear_decay)
ALEXNET = Recipe(lr=0.01, batch=256, momentum=0.9, weight_decay=5e-4, schedule=alexnet_steps)
OWN_MODEL = Recipe(lr=0.01, batch=256, momentum=0.9, weight_decay=1e-4, schedule=constant)
"""Recipe for models without one of their own: safe for most networks, optimal for few."""
