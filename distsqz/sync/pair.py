"""A worker and a shard, connected: two-rank Gloo groups of their own, one for each direction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, ProcessGroupGloo, Store, TCPStore, Work

CONNECT_TIMEOUT = timedelta(seconds=60)
PATIENT = timedelta(days=365)
"""For who waits for a peer that owes nothing: one that dies breaks the connection, which is noticed at once."""

SHARD_END, WORKER_END = 0, 1


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a shard's store listens; its workers meet it there."""

    host: str
    port: int

    def connect(self) -> Store:
        """The store, as a worker sees it."""
        return TCPStore(self.host, self.port, None, is_master=False, timeout=CONNECT_TIMEOUT)


def open_store(host: str) -> tuple[TCPStore, StoreAddress]:
    """A store on a port of its own; it listens as long as it is kept."""
    store = TCPStore(host, 0, None, is_master=True, timeout=CONNECT_TIMEOUT, wait_for_workers=False)
    return store, StoreAddress(host, store.port)


class Way:
    """One direction's connection, at one of its ends."""

    def __init__(self, store: Store, name: str, end: int, address: str) -> None:
        """Connects; the other end has to do the same.

        Args:
            store: where both ends meet.
            name: of this connection, the same at both ends and used once.
            end: `SHARD_END` or `WORKER_END`.
            address: of this host's interface, where the other end reaches it.
        """
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        options._timeout = CONNECT_TIMEOUT
        options._threads = 1
        self._other = 1 - end
        self._group = ProcessGroupGloo(PrefixStore(name, store), end, 2, options)

    def send(self, message: torch.Tensor, tag: int) -> Work:
        """Begins to send; `message` must stay as it is until the work is done."""
        return cast("Work", self._group.send([message], self._other, tag))

    def receive(self, place: torch.Tensor, tag: int) -> Work:
        """Lets the next message of this tag come to `place`, which is as large; several are met in order."""
        return cast("Work", self._group.recv([place], self._other, tag))

    def close(self) -> None:
        """Breaks the connection; who waits at either end is told."""
        self._group.abort()


@dataclass(frozen=True, slots=True)
class Pair:
    """Both directions between a worker and a shard; each keeps its direction of the link busy by itself."""

    push: Way
    pull: Way

    @classmethod
    def connect(cls, store: Store, name: str, end: int, address: str) -> Pair:
        """Connects one end, as `Way` does."""
        return cls(*(Way(store, f"{name}/{way}", end, address) for way in ("push", "pull")))

    def close(self) -> None:
        """Breaks both connections."""
        self.push.close()
        self.pull.close()


def shard_name(index: int) -> str:
    """What records call a shard."""
    return f"shard {index}"


def ends_key(name: str) -> str:
    """Where a shard notes, in its store, the local ends of its connections for a worker of this name."""
    return f"{name}/ends"


def wait(work: Work, timeout: timedelta = PATIENT) -> None:
    """Returns when a message has come or gone.

    Raises:
        ConnectionError: it did not in time, or the other end is gone.
    """
    try:
        work.wait(timeout)
    except (RuntimeError, dist.DistError) as error:
        raise ConnectionError(str(error).splitlines()[0]) from error
