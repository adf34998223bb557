"""Which worker this is, among which, on what machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distsqz.theory.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One worker's place in a session; torch's default process group joins it with the others."""

    rank: int
    placement: Placement
    """Hosts of all workers, and of the servers of a parameter server."""
    cores: int
    """Cores of this host that its workers may use together."""
    device: str
    """`cpu` or `cuda:N`."""
    address: str
    """Of this host, where the other ranks reach it."""
    interface: str | None
    """The network interface that the bytes to other ranks go through."""
    emulated_rates_bits_per_s: Mapping[str, int] | None = None
    """Rate of each emulated host's link, in each direction, by host; None where links are not emulated."""
    timeout_s: float = 60.0
    """How long a peer may take to answer."""
    attempt: int = 0
    """How often this rank was started before."""
    joins: bool = False
    """It takes the place of one that is gone, while the others are at work: there is no group to meet in."""

    @property
    def world_size(self) -> int:
        """Workers of the session."""
        return len(self.placement.workers)

    @property
    def host(self) -> str:
        """This worker's host."""
        return self.placement.workers[self.rank]

    @property
    def local_world_size(self) -> int:
        """Workers on this host."""
        return list(self.placement.workers).count(self.host)
