"""Hosts of the processes of a session, which decide whether their bytes cross a link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Process = int | str
"""A worker by its rank, or a shard by its name."""


def shard_name(index: int) -> str:
    """The name of a shard among the peers of a worker."""
    return f"shard {index}"


def rank_name(rank: int) -> str:
    """The name of a rank as the peer or the root of a transfer."""
    return f"rank {rank}"


def rank_index(name: str) -> int:
    """The rank with a name."""
    return int(name.removeprefix("rank "))


def shard_index(name: str) -> int:
    """The index of the shard with a name."""
    return int(name.removeprefix("shard "))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The host of every worker and of every shard of a parameter server.

    Labels identify hosts and must be unique. If all processes are on one host, its loopback represents the
    network and each process counts as a host of its own.
    """

    workers: Sequence[str]
    """Host of each worker, by rank."""
    shards: Sequence[str] = ()
    """Host of each shard, by index."""

    spans_hosts: bool | None = None
    """Whether the session has processes on several hosts. By default derived from workers and shards."""

    def __post_init__(self) -> None:
        """Derives `spans_hosts` if it is not given."""
        if self.spans_hosts is None:
            object.__setattr__(self, "spans_hosts", len({*self.workers, *self.shards}) > 1)

    def crosses(self, origin: str, destination: str) -> bool:
        """Whether a transfer between processes on these two hosts crosses a link."""
        return origin != destination or not self.spans_hosts

    def host_of(self, process: Process) -> str:
        """The host of a worker or of a shard."""
        return self.workers[process] if isinstance(process, int) else self.shards[shard_index(process)]

    def local_ranks(self, rank: int) -> list[int]:
        """Other ranks that a rank reaches without crossing a link."""
        return [
            other
            for other, host in enumerate(self.workers)
            if other != rank and not self.crosses(self.workers[rank], host)
        ]

    def local_shards(self, rank: int) -> list[int]:
        """Shards that a rank reaches without crossing a link."""
        return [index for index, host in enumerate(self.shards) if not self.crosses(self.workers[rank], host)]


@dataclass(frozen=True, slots=True)
class LinkLoad:
    """Payload that one host's link carries, in bytes in each direction."""

    tx_bytes: int = 0
    rx_bytes: int = 0

    def __add__(self, other: LinkLoad) -> LinkLoad:
        """The sum of two loads."""
        return LinkLoad(self.tx_bytes + other.tx_bytes, self.rx_bytes + other.rx_bytes)
