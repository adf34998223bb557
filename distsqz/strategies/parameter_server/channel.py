"""Connections between a worker and a shard: a two-rank Gloo group for each direction."""

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

from distsqz.metering.tcp import Connection, Ends, own_connections

CONNECT_TIMEOUT = timedelta(seconds=60)
NO_DEADLINE = timedelta(days=365)
"""Effectively no timeout, for waits without a deadline. A dead peer is detected by its broken connection."""

SILENCE_S = 20
"""Seconds after which the connection to a host that does not answer breaks. Shorter interruptions have no
effect."""

SHARD_END, WORKER_END = 0, 1


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Address of a shard's store, at which its workers connect."""

    host: str
    port: int

    def connect(self) -> Store:
        """Connects to the store as a client."""
        return TCPStore(self.host, self.port, None, is_master=False, timeout=CONNECT_TIMEOUT)


def open_store(host: str) -> tuple[TCPStore, StoreAddress]:
    """Opens a store on a free port. It listens until it is no longer referenced."""
    store = TCPStore(host, 0, None, is_master=True, timeout=CONNECT_TIMEOUT, wait_for_workers=False)
    return store, StoreAddress(host, store.port)


class Channel:
    """One end of a connection that carries one direction."""

    def __init__(self, store: Store, name: str, end: int, address: str) -> None:
        """Connects to the other end, which must connect too.

        Args:
            store: the store through which both ends find each other.
            name: name of the connection, the same at both ends and used only once.
            end: `SHARD_END` or `WORKER_END`.
            address: address of this host at which the other end reaches it.
        """
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        options._timeout = CONNECT_TIMEOUT
        options._threads = 1
        self._other = 1 - end
        self._group = ProcessGroupGloo(PrefixStore(name, store), end, 2, options)

    def send(self, message: torch.Tensor, tag: int) -> Work:
        """Starts to send; `message` must not change until the work is done.

        Raises:
            ConnectionError: the connection is broken.
        """
        with _connection_errors():
            return cast("Work", self._group.send([message], self._other, tag))  # type: ignore[attr-defined]

    def receive(self, place: torch.Tensor, tag: int) -> Work:
        """Starts to receive the next message with a tag. Pending calls for one tag complete in order.

        Args:
            place: tensor that receives the message, of the same size.
            tag: tag of the message.

        Raises:
            ConnectionError: the connection is broken.
        """
        with _connection_errors():
            return cast("Work", self._group.recv([place], self._other, tag))  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class DuplexChannel:
    """The connections of both directions between a worker and a shard, which are used independently."""

    push: Channel
    pull: Channel
    connections: Sequence[Connection]
    """The TCP connections that both directions use."""

    @classmethod
    def connect(cls, store: Store, name: str, end: int, address: str) -> DuplexChannel:
        """Connects one end of both directions. A process connects its ends one after the other."""
        before = _own_ends()
        push, pull = (Channel(store, f"{name}/{direction}", end, address) for direction in ("push", "pull"))
        mine, theirs = (f"{name}/{end}", f"{name}/{1 - end}")
        if end == WORKER_END:
            store.set(mine, json.dumps(sorted(_own_ends() - before)))
        others = {(tuple(local), tuple(remote)) for local, remote in json.loads(store.get(theirs))}
        connections = _connections_to(own_connections(), others)
        if end == SHARD_END:
            store.set(mine, json.dumps([connection.ends for connection in connections]))
        for connection in connections:
            connection.expect_life(SILENCE_S)
        return cls(push, pull, connections)

    def close(self) -> None:
        """Breaks the connections, which Gloo cannot do. Waits at either end raise ConnectionError."""
        for connection in self.connections:
            connection.cut()


def _own_ends() -> set[Ends]:
    connections = own_connections()
    _connections_to(connections, ())
    return {connection.ends for connection in connections}


def _connections_to(connections: Sequence[Connection], others: Collection[Ends]) -> list[Connection]:
    """The connections that another process has as `others`; the descriptors of the rest are closed."""
    selected = []
    for connection in connections:
        if connection.ends_of_peer in others:
            selected.append(connection)
        else:
            connection.close()
    return selected


def wait(work: Work, timeout: timedelta = NO_DEADLINE) -> None:
    """Waits until a message has been sent or received.

    Raises:
        ConnectionError: the timeout has passed, or the connection is broken.
    """
    with _connection_errors():
        work.wait(timeout)


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Converts the RuntimeErrors that Gloo raises for broken connections."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(str(error).splitlines()[0]) from error
