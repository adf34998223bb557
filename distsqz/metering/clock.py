"""The clock that cuts a step into phases, on a host that computes as it is told to."""

from __future__ import annotations

import time
from typing import Protocol, TypeVar

NS_PER_S = 1_000_000_000

Mark = TypeVar("Mark")


class Clock(Protocol[Mark]):
    """Marks on the timeline that a step's computation runs on."""

    def now(self) -> Mark:
        """A mark at this point of the computation."""

    def settle(self) -> None:
        """Waits until everything before the last mark has been computed."""

    def seconds(self, start: Mark, end: Mark) -> float:
        """Between two marks, once settled."""


class HostClock:
    """A CPU computes when called: a mark is the time of the call."""

    def now(self) -> int:
        """Nanoseconds on the process's monotonic clock."""
        return time.perf_counter_ns()

    def settle(self) -> None:
        """Nothing to wait for."""

    def seconds(self, start: int, end: int) -> float:
        """Between two marks."""
        return (end - start) / NS_PER_S
