"""How far workers may run apart: the gate of synchronous, stale-synchronous and asynchronous updates.

Source: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server" (NIPS
2013), section 2: a worker that has finished c steps may begin another if none has finished fewer than c - s.
"""

from __future__ import annotations

from collections.abc import Iterable


class StalenessGate:
    """Tells which workers are too far ahead of the slowest; its owner sees to threads.

    A staleness of 0 keeps all in step (bulk-synchronous); None never holds anyone back (asynchronous).
    """

    def __init__(self, workers: Iterable[int], staleness: int | None) -> None:
        """Opens with workers at step 0.

        Args:
            workers: ranks that are there from the beginning.
            staleness: steps that a worker may be ahead of the slowest; None for any number.
        """
        self._finished = dict.fromkeys(workers, 0)
        self._staleness = staleness

    def may_begin(self, worker: int) -> bool:
        """Whether `worker` may begin its next step."""
        return self._staleness is None or self._finished[worker] - self.slowest() <= self._staleness

    def slowest(self) -> int:
        """Steps that the slowest worker has finished; 0 where there is none."""
        return min(self._finished.values(), default=0)

    def finish(self, worker: int) -> None:
        """Notes that `worker` has finished a step."""
        self._finished[worker] += 1

    def leave(self, worker: int) -> None:
        """Takes a worker out, one that died, say: it holds nobody back any more."""
        self._finished.pop(worker, None)

    def join(self, worker: int, finished: int) -> None:
        """Takes a worker in that has finished so many steps."""
        self._finished[worker] = finished
