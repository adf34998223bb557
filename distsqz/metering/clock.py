"""The clock that divides a step into phases, for a device that computes synchronously."""

from __future__ import annotations

import time
from typing import Protocol, TypeVar

NS_PER_S = 1_000_000_000

Mark = TypeVar("Mark")


class Clock(Protocol[Mark]):
    """Marks points in time of a step's computation."""

    def now(self) -> Mark:
        """Returns a mark at this point of the computation."""

    def settle(self) -> None:
        """Waits until everything before the last mark has been computed."""

    def seconds(self, start: Mark, end: Mark) -> float:
        """Seconds between two marks, after `settle`."""


class HostClock:
    """Clock of the CPU. It computes synchronously, so that a mark is the time of the call."""

    def now(self) -> int:
        """Nanoseconds on the process's monotonic clock."""
        return time.perf_counter_ns()

    def settle(self) -> None:
        """Returns at once."""

    def seconds(self, start: int, end: int) -> float:
        """Seconds between two marks."""
        return (end - start) / NS_PER_S
