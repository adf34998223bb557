"""A worker's place in a session: its rank, its peers and its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distsqz.theory.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One worker's place in a session. Torch's default process group connects it with the others."""

    rank: int
    placement: Placement
    """Hosts of all workers, and of the servers of a parameter server."""
    cores: int
    """Cores of this host that its workers may use together."""
    device: str
    """`cpu` or `cuda:N`."""
    address: str
    """Address at which the other ranks reach this host."""
    interface: str | None
    """Network interface to the other ranks."""
    emulated_rates_bits_per_s: Mapping[str, int] | None = None
    """Rate of each emulated host's link in each direction, by host, in bits per second; None if links are not
    emulated."""
    timeout_s: float = 60.0
    """Seconds within which a peer must answer."""
    attempt: int = 0
    """Number of times that this rank was started before."""
    joins: bool = False
    """Whether this worker replaces one that was lost while the others go on training; it then has no process
    group."""

    @property
    def world_size(self) -> int:
        """Number of workers of the session."""
        return len(self.placement.workers)

    @property
    def host(self) -> str:
        """This worker's host."""
        return self.placement.workers[self.rank]

    @property
    def local_world_size(self) -> int:
        """Number of workers on this host."""
        return list(self.placement.workers).count(self.host)
