"""Logical transfers: every payload handed to the communication layer, with when it left and came back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from distsqz.metering.clock import Clock

EPOCH_OFFSET_NS = time.time_ns() - time.perf_counter_ns()
"""Added to this process's monotonic clock it gives the time since the Unix epoch."""


def now_ns() -> int:
    """Nanoseconds since the epoch, monotonic within this process."""
    return time.perf_counter_ns() + EPOCH_OFFSET_NS


@dataclass(slots=True)
class Transfer:
    """One payload on its way; `t_done_ns` stays None until it is back."""

    op: str
    bucket: int
    peer: str | None
    payload_bytes: int
    t_launch_ns: int
    t_done_ns: int | None = None

    def done(self) -> None:
        """Notes that it is back; may be called from any thread."""
        self.t_done_ns = now_ns()


class TransferLog:
    """The transfers of the step under way, and the mark at which the last of them left."""

    def __init__(self, clock: Clock[Any]) -> None:
        self._clock = clock
        self._transfers: list[Transfer] = []
        self.last_launch: Any = None

    def launch(self, op: str, bucket: int, payload_bytes: int, peer: str | None = None) -> Transfer:
        """Notes that a payload leaves now."""
        transfer = Transfer(op, bucket, peer, payload_bytes, now_ns())
        self.last_launch = self._clock.now()
        self._transfers.append(transfer)
        return transfer

    def take(self) -> list[Transfer]:
        """The step's transfers; the log is empty afterwards."""
        taken, self._transfers = self._transfers, []
        self.last_launch = None
        return taken
