"""A worker and a shard, connected: two-rank Gloo groups of their own, one for each direction."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch._C._distributed_c10d import TCPStore
from torch.distributed import ProcessGroupGloo, Work
from torch.distributed.distributed_c10d import PrefixStore, Store

from distsqz.metering.tcp import Address, Connection, own_connections

CONNECT_TIMEOUT = timedelta(seconds=60)
NO_DEADLINE = timedelta(days=365)
"""For who waits for a peer that owes nothing: one that dies breaks the connection, which is noticed."""

SILENCE_S = 20
"""After which a host that does not answer is given up; a cable pulled for some seconds is not noticed."""

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


class Channel:
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
        """Begins to send; `message` must stay as it is until the work is done.

        Raises:
            ConnectionError: the other end is gone.
        """
        with _connection_errors():
            return cast("Work", self._group.send([message], self._other, tag))  # type: ignore[attr-defined]

    def receive(self, place: torch.Tensor, tag: int) -> Work:
        """Lets the next message of this tag come to `place`, which is as large; several are met in order.

        Raises:
            ConnectionError: the other end is gone.
        """
        with _connection_errors():
            return cast("Work", self._group.recv([place], self._other, tag))  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class DuplexChannel:
    """Both directions between a worker and a shard; each keeps its direction of the link busy by itself."""

    push: Channel
    pull: Channel
    connections: Sequence[Connection]
    """The TCP connections that they go over."""

    @classmethod
    def connect(cls, store: Store, name: str, end: int, address: str) -> DuplexChannel:
        """Connects one end, as `Channel` does; a process connects its worker's ends one after the other."""
        before = _local_ends()
        push, pull = (Channel(store, f"{name}/{way}", end, address) for way in ("push", "pull"))
        mine, theirs = (f"{name}/{end}", f"{name}/{1 - end}")
        if end == WORKER_END:
            store.set(mine, json.dumps(sorted(_local_ends() - before)))
        others = {(host, port) for host, port in json.loads(store.get(theirs))}
        connections = _connections_to(own_connections(), others)
        if end == SHARD_END:
            store.set(mine, json.dumps([connection.local for connection in connections]))
        for connection in connections:
            connection.expect_life(SILENCE_S)
        return cls(push, pull, connections)

    def close(self) -> None:
        """Breaks the connections, which Gloo itself does not offer; who waits at either end is told."""
        for connection in self.connections:
            connection.cut()


def _local_ends() -> set[Address]:
    found = own_connections()
    _connections_to(found, ())
    return {connection.local for connection in found}


def _connections_to(found: Sequence[Connection], remotes: Collection[Address]) -> list[Connection]:
    """The connections to `remotes`; the others' descriptors are given back."""
    taken = []
    for connection in found:
        if connection.remote in remotes:
            taken.append(connection)
        else:
            connection.close()
    return taken


def shard_name(index: int) -> str:
    """What records call a shard."""
    return f"shard {index}"


def wait(work: Work, timeout: timedelta = NO_DEADLINE) -> None:
    """Returns when a message has come or gone.

    Raises:
        ConnectionError: it did not in time, or the other end is gone.
    """
    with _connection_errors():
        work.wait(timeout)


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Gloo tells of broken connections by RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(str(error).splitlines()[0]) from error
