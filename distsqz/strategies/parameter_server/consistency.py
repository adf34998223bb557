"""Consistency of a parameter server: which updates the parameters of a worker include."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["sync", "async", "ssp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Rules for when an update is made and when a worker receives it."""

    mode: Mode = "sync"
    """sync: one update from the gradients of all workers; async: an update from each push at once; ssp: like
    async, but no worker may be too far ahead of the slowest."""
    staleness: int = 0
    """Steps that a worker may be ahead of the slowest under ssp."""
    backup_workers: int = 0
    """Number of gradients that a synchronous update does not wait for. Late gradients are dropped.

    Source: Chen et al., "Revisiting Distributed Synchronous SGD" (2016), section 3."""

    @property
    def lead(self) -> int | None:
        """Steps that a worker may be ahead of the slowest; None if there is no limit."""
        return {"sync": 0, "async": None, "ssp": self.staleness}[self.mode]

    @property
    def together(self) -> bool:
        """Whether workers make the same steps at the same time, so that they can meet between steps."""
        return self.mode == "sync" and not self.backup_workers
