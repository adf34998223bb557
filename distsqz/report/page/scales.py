"""Scales of the page's figures: from a value to a place, and the ticks in between."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic scale from `low` at `left` to `high` at `right`."""

    low: float
    high: float
    left: float
    right: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, rounded to a tenth of a pixel; values outside are put at the nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)

    def ticks(self) -> list[float]:
        """Powers of ten on a logarithmic scale; on a linear one up to six round numbers from `low`."""
        if self.log:
            first, last = (round(math.log10(end)) for end in (self.low, self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = _round_step((self.high - self.low) / 5)
        return [self.low + step * index for index in range(int((self.high - self.low) / step + 1e-9) + 1)]


def log_scale(values: Iterable[float], left: float, right: float) -> Scale:
    """A scale over whole decades that hold all positive values; one decade where there is none."""
    positive = [value for value in values if value > 0] or [1.0]
    first = math.floor(math.log10(min(positive)) + 1e-9)
    last = math.ceil(math.log10(max(positive)) - 1e-9)
    return Scale(10.0**first, 10.0 ** max(last, first + 1), left, right, log=True)


def linear_scale(values: Iterable[float], left: float, right: float) -> Scale:
    """A scale from zero to the largest value."""
    return Scale(0.0, max([*values, 0.0]) or 1.0, left, right)


def _round_step(least: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
