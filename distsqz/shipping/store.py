"""Files that a client holds, by hash. They have no name, so that they disappear with the process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from distsqz.errors import RunError
from distsqz.metering.clock import NS_PER_S
from distsqz.metering.wire import WireCounters
from distsqz.shipping.protocol import FileLocation
from distsqz.shipping.receiver import ReceiveResult, receive
from distsqz.shipping.update import apply_update


@dataclass(frozen=True, kw_only=True)
class FetchTask:
    """A file that a client fetches."""

    location: FileLocation
    base_sha256: bytes | None
    """SHA-256 of the base if the file is an update; None if it is a whole file."""
    keep: frozenset[bytes]
    """SHA-256 of the files that are needed later. All others are dropped after this fetch."""


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """Measurements of a completed fetch."""

    t_start_ns: int
    """Wall-clock time of the request, in nanoseconds since the epoch."""
    transfer_s: float
    """Seconds from the request to the last byte, including the check of the hash."""
    rebuild_s: float | None
    """Seconds to build the new file from its base and the update; None for a whole file."""
    received: ReceiveResult
    wire: WireCounters | None
    """Frames that passed the host's link during the transfer; None if they are not metered."""


class Store:
    """The files of one client."""

    def __init__(self) -> None:
        self._files: dict[bytes, BinaryIO] = {}

    def take(
        self, task: FetchTask, patience_s: float, read_wire: Callable[[], WireCounters | None]
    ) -> FetchResult:
        """Fetches a file, and applies it if it is an update.

        Args:
            task: the file to fetch.
            patience_s: seconds without a received byte after which the fetch fails.
            read_wire: reads the counters of the host's link.

        Raises:
            RunError: the fetch failed, or the base of the update is missing.
        """
        base = self._files.get(task.base_sha256) if task.base_sha256 else None
        if task.base_sha256 and base is None:
            raise RunError("the base of the update is missing")
        file = tempfile.TemporaryFile()  # noqa: SIM115 - kept until it is dropped
        wire_before = read_wire()
        t_start_ns, start = time.time_ns(), time.perf_counter_ns()
        received = receive(task.location, file, patience_s)
        arrived = time.perf_counter_ns()
        wire_after = read_wire()
        self._files[task.location.sha256] = file
        rebuild_s = None
        if base is not None:
            began = time.perf_counter_ns()
            self._rebuild(file, base)
            rebuild_s = (time.perf_counter_ns() - began) / NS_PER_S
        self._drop_all_but(task.keep)
        return FetchResult(
            t_start_ns=t_start_ns,
            transfer_s=(arrived - start) / NS_PER_S,
            rebuild_s=rebuild_s,
            received=received,
            wire=wire_after.since(wire_before) if wire_before and wire_after else None,
        )

    def _rebuild(self, update: BinaryIO, base: BinaryIO) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - kept until it is dropped
        self._files[apply_update(update, base, file)] = file

    def _drop_all_but(self, keep: frozenset[bytes]) -> None:
        for sha256 in self._files.keys() - keep:
            self._files.pop(sha256).close()
