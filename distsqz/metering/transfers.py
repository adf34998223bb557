"""Logical transfers: every payload handed to the communication layer, with when it left and came back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distsqz.metering.clock import Clock
from distsqz.runs.columns import column, columns_of

EPOCH_OFFSET_NS = time.time_ns() - time.perf_counter_ns()
"""Offset of this process's monotonic clock to the Unix epoch, in nanoseconds."""


def now_ns() -> int:
    """Nanoseconds since the epoch, monotonic within this process."""
    return time.perf_counter_ns() + EPOCH_OFFSET_NS


@dataclass(slots=True)
class Transfer:
    """One transfer; `t_done_ns` is None while it is in flight."""

    op: str
    step: int
    bucket: int
    peer: str | None
    payload_bytes: int
    t_launch_ns: int
    t_done_ns: int | None = None
    late: bool = False
    """Whether it may end in a later step than its own."""

    def done(self) -> None:
        """Records the time of the first call as the end of the transfer; may be called from any thread."""
        if self.t_done_ns is None:
            self.t_done_ns = now_ns()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of a transfer, or of all transfers of a step, for the rank that launched them."""

    logical_tx_bytes: int = column(
        "Payload handed to the communication layer.",
        unit="bytes",
        combine="mean",
        heading="logical_tx_bytes",
    )
    logical_rx_bytes: int = column("Payload that the communication layer handed back.", unit="bytes")
    predicted_tx_bytes: int = column(
        "Bytes that the formula of the algorithm (`distsqz.theory`) says this rank must send to other "
        "hosts. In a session of one host, loopback stands for the network and everything counts.",
        unit="bytes",
        combine="mean",
        heading="predicted_tx_bytes",
    )
    predicted_rx_bytes: int = column(
        "Bytes that the formula says this rank must receive from other hosts.", unit="bytes", combine="mean"
    )
    predicted_local_tx_bytes: int = column(
        "Bytes that the formula says this rank must send to processes on its own host, which cross no link; "
        "0 in a session of one host.",
        unit="bytes",
        combine="mean",
        heading="predicted_local_tx_bytes",
    )
    predicted_local_rx_bytes: int = column(
        "Bytes that the formula says this rank must receive from processes on its own host.", unit="bytes"
    )

    @classmethod
    def total(cls, transfers: Iterable[Traffic]) -> Traffic:
        """The sums over transfers."""
        every = list(transfers)
        names = [declared.name for declared in columns_of(cls)]
        return cls(**{name: sum(getattr(each, name) for each in every) for name in names})


Account = Callable[[Transfer], Traffic]
"""Gives what a transfer hands to the communication layer, and what theory says that it must cost."""


class TransferLog:
    """Log of transfers, and of the times at which the training thread waited for them."""

    def __init__(self, clock: Clock[Any]) -> None:
        self._clock = clock
        self._launched: list[Transfer] = []
        self._unfinished: list[Transfer] = []
        self._step = 0
        self._gradients_ready: Any = None
        self._waits: list[tuple[Any, Any]] = []
        self._thread = threading.get_ident()
        self.in_step = False
        """Whether a step is being timed."""

    def begin(self, step: int) -> None:
        """Starts a step, to which all transfers launched from now on belong; the training thread calls it."""
        self._step = step
        self.in_step = True
        self._thread = threading.get_ident()

    def end(self) -> None:
        """Ends the step. What is called until the next one is no part of training."""
        self.in_step = False

    def launch(
        self, op: str, bucket: int, payload_bytes: int, peer: str | None = None, *, late: bool = False
    ) -> Transfer:
        """Records that a transfer starts now; may be called from any thread."""
        transfer = Transfer(op, self._step, bucket, peer, payload_bytes, now_ns(), late=late)
        self._launched.append(transfer)
        return transfer

    @property
    def launched_in_step(self) -> int:
        """Number of transfers that the current step has launched so far."""
        return len(self._launched)

    def gradients_ready(self) -> None:
        """Marks that this rank's own gradients are complete, for all the caller knows; the last counts."""
        self._gradients_ready = self._clock.now()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which the training thread waits for parameters that have not arrived."""
        start = self.now()
        try:
            yield
        finally:
            self.waited(start)

    def now(self) -> Any:
        """The time on the clock that waits are measured with."""
        return self._clock.now()

    def waited(self, start: Any) -> None:
        """Records a wait from `start` to now, if it was the training thread that waited."""
        if threading.get_ident() == self._thread:
            self._waits.append((start, self.now()))

    def take_waits(self) -> list[tuple[Any, Any]]:
        """Start and end of each wait since the last call."""
        taken, self._waits = self._waits, []
        return taken

    def take_gradients_ready(self) -> Any:
        """The last time marked by `gradients_ready` since the last call; None if there is none."""
        taken, self._gradients_ready = self._gradients_ready, None
        return taken

    def take_launched(self) -> tuple[list[Transfer], list[Transfer]]:
        """Transfers launched since the last call, and those that have ended since.

        A push or a pull may end in a later step than its own: it is told of when it has.
        """
        launched, self._launched = self._launched, []
        known = [*self._unfinished, *launched]
        self._unfinished = [each for each in known if each.late and each.t_done_ns is None]
        return launched, [each for each in known if not each.late or each.t_done_ns is not None]
