"""What a parameter server promises about the parameters that workers compute with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["sync", "async", "ssp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """When an update is made, and when a worker gets it."""

    mode: Mode = "sync"
    """sync: one update from all gradients; async: one from each, at once; ssp: likewise, within a lead."""
    staleness: int = 0
    """Steps that a worker may be ahead of the slowest, under ssp."""
    backup_workers: int = 0
    """Under sync, gradients that an update does not wait for; they are dropped when they come.

    Source: Chen et al., "Revisiting Distributed Synchronous SGD" (2016), section 3."""

    @property
    def lead(self) -> int | None:
        """Steps that a worker may be ahead of the slowest; None for any number."""
        return {"sync": 0, "async": None, "ssp": self.staleness}[self.mode]

    @property
    def together(self) -> bool:
        """Whether workers make the same steps at the same time, and so can meet between them."""
        return self.mode == "sync" and not self.backup_workers
