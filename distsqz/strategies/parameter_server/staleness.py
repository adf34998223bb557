"""Limit on the distance between workers, for synchronous, stale-synchronous and asynchronous updates.

Source: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server" (NIPS
2013), section 2: a worker that has finished c steps may begin another if none has finished fewer than c - s.
"""

from __future__ import annotations

from collections.abc import Iterable


class StalenessGate:
    """Counts the steps of workers, and decides which are too far ahead of the slowest. Not thread-safe.

    A staleness of 0 keeps all workers in step (bulk-synchronous); None sets no limit (asynchronous).
    """

    def __init__(self, workers: Iterable[int], staleness: int | None) -> None:
        """Starts with workers at step 0.

        Args:
            workers: ranks that take part from the beginning.
            staleness: steps that a worker may be ahead of the slowest; None if there is no limit.
        """
        self._finished = dict.fromkeys(workers, 0)
        self._staleness = staleness

    def may_begin(self, worker: int) -> bool:
        """Whether `worker` may start its next step."""
        return self._staleness is None or self._finished[worker] - self.slowest() <= self._staleness

    def slowest(self) -> int:
        """Steps that the slowest worker has finished; 0 without workers."""
        return min(self._finished.values(), default=0)

    def finish(self, worker: int) -> None:
        """Records that `worker` has finished a step."""
        self._finished[worker] += 1

    def leave(self, worker: int) -> None:
        """Removes a worker, so that others no longer wait for it."""
        self._finished.pop(worker, None)

    def join(self, worker: int, finished: int) -> None:
        """Adds a worker that has finished `finished` steps."""
        self._finished[worker] = finished
