"""What a client holds: files by their hash, in open descriptors, so that they go with its process."""

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
    """What a client is to fetch."""

    location: FileLocation
    base_sha256: bytes | None
    """Of the file that it is an update of; None if it is whole."""
    keep: frozenset[bytes]
    """Hashes of what is needed later; all else may go once this is here."""


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """A task that is here, whole and checked."""

    t_start_ns: int
    transfer_s: float
    """From the request to the last byte, its check included."""
    rebuild_s: float | None
    """For making the new file of the old one and its update."""
    received: ReceiveResult
    wire: WireCounters | None
    """What passed the host's link during the transfer."""


class Store:
    """A client's files."""

    def __init__(self) -> None:
        self._files: dict[bytes, BinaryIO] = {}

    def take(
        self, task: FetchTask, patience_s: float, read_wire: Callable[[], WireCounters | None]
    ) -> FetchResult:
        """Fetches a task, and makes the new file if it is an update.

        Raises:
            RunError: it could not be had, or its base is not here.
        """
        base = self._files.get(task.base_sha256) if task.base_sha256 else None
        if task.base_sha256 and base is None:
            raise RunError("the base of the update is not here")
        file = tempfile.TemporaryFile()  # noqa: SIM115 - kept until it may go
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
        file = tempfile.TemporaryFile()  # noqa: SIM115 - kept until it may go
        self._files[apply_update(update, base, file)] = file

    def _drop_all_but(self, keep: frozenset[bytes]) -> None:
        for sha256 in self._files.keys() - keep:
            self._files.pop(sha256).close()
