"""How far workers may run apart: the gate of synchronous, stale-synchronous and asynchronous updates.

Source: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server" (NIPS
2013), section 2: a worker that has finished c steps may begin another if none has finished fewer than c - s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable


class StalenessGate:
    """Holds workers back that are too far ahead of the slowest; safe to be used by a thread a worker.

    A staleness of 0 keeps all in step (bulk-synchronous); None never holds anyone back (asynchronous).
    """

    def __init__(self, workers: Iterable[int], staleness: int | None) -> None:
        """Opens with every worker at step 0.

        Args:
            workers: ranks.
            staleness: steps that a worker may be ahead of the slowest; None for any number.
        """
        self._finished = dict.fromkeys(workers, 0)
        self._staleness = staleness
        self._changed = threading.Condition()

    def begin(self, worker: int, timeout_s: float | None = None) -> bool:
        """Returns when `worker` may begin its next step: true, or false where that is not so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._may_begin(worker), timeout_s)

    def may_begin(self, worker: int) -> bool:
        """Whether `worker` may begin its next step now."""
        with self._changed:
            return self._may_begin(worker)

    def finish(self, worker: int) -> int:
        """Notes that `worker` has finished a step; gives the steps that it is now ahead of the slowest."""
        with self._changed:
            self._finished[worker] += 1
            self._changed.notify_all()
            return self._lead(worker)

    def leave(self, worker: int) -> None:
        """Takes a worker out, one that died, say: it holds nobody back any more."""
        with self._changed:
            del self._finished[worker]
            self._changed.notify_all()

    def join(self, worker: int) -> None:
        """Takes a worker in, to go on from the slowest's step."""
        with self._changed:
            self._finished[worker] = min(self._finished.values(), default=0)

    def _may_begin(self, worker: int) -> bool:
        return self._staleness is None or self._lead(worker) <= self._staleness

    def _lead(self, worker: int) -> int:
        return self._finished[worker] - min(self._finished.values())
