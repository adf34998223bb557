"""Which worker this is, among which, on what machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One worker's place in a session; torch's default process group joins it with the others."""

    rank: int
    world_size: int
    local_world_size: int
    """Workers on this host."""
    host: str
    cores: int
    """Cores of this host that its workers may use together."""
    device: str
    """`cpu` or `cuda:N`."""
    address: str
    """Of this host, where the other ranks reach it."""
    interface: str | None
    """The network interface that the bytes to other ranks go through."""
    spans_hosts: bool = False
    """Whether the session's processes stand on several hosts."""
    timeout_s: float = 60.0
    """How long a peer may take to answer."""
    attempt: int = 0
    """How often this rank was started before."""
    joins: bool = False
    """It takes the place of one that is gone, while the others are at work: there is no group to meet in."""
