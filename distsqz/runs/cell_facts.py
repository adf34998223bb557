"""What becomes known of a cell while it runs: facts of its workers, servers or clients, for run.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CellFacts:
    """A part of what became known of a cell while it ran. A field that is None could not be read."""

    def as_entry(self) -> dict[str, Any]:
        """Keys and values for the cell's entry in run.json."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WorkerFacts(CellFacts):
    """The hosts and cores that the workers of a cell have, before the first step."""

    hosts: list[str]
    """The host of each rank."""
    spans_hosts: bool | None
    """Whether ranks or servers are on more than one host; None where that is unknown."""
    cores_by_host: Mapping[str, int]
    """Whole cores that a host's workers may keep busy together."""
    threads_per_worker: int
    """Compute threads of a worker; the most that any has."""
    interface: str | None
    """The network interface of rank 0 that is metered."""
    device: str
    """What rank 0 computes on: `cpu` or a GPU."""
    emulated: bool
    """Whether the hosts are emulated on one machine."""
    machine_cores: int
    """Whole cores of rank 0's machine, which emulated hosts share."""
    emulated_rate_bits_per_s: Mapping[str, int] | None
    """Rate of the links of each emulated host, in each direction; None on real hosts."""


@dataclass(frozen=True, kw_only=True)
class ServerPlaces(CellFacts):
    """Where the shards of a cell's parameter server are."""

    server_hosts: list[str]
    """The host of each shard."""


@dataclass(frozen=True, kw_only=True)
class ServerMemory(CellFacts):
    """What the servers of a session had used of memory by its end."""

    server_peak_rss_bytes: list[int]
    """Largest resident set of each server process, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Restarts(CellFacts):
    """Workers or servers that were started again."""

    restarted: list[dict[str, Any]]
    """For each time: `attempt`, `rank` (None where it was a server or all) and `text`, one line."""


@dataclass(frozen=True, kw_only=True)
class ShipmentFacts(CellFacts):
    """Between which hosts a file is shipped."""

    head_host: str
    hosts: list[str]
    """The host of each client."""
    emulated: bool
    """Whether the hosts are emulated on one machine."""
    machine_cores: int
    """Whole cores of the head's machine, which emulated hosts share."""
    emulated_rate_bits_per_s: Mapping[str, int] | None
    """Rate of the links of each emulated host, in each direction; None on real hosts."""
    congestion_control: str | None
    """The algorithm that the head's sockets used."""


@dataclass(frozen=True, kw_only=True)
class ShipmentTraffic(CellFacts):
    """What a shipment sent."""

    head_wire_tx_bytes: int
    """Frames that left the head, headers and retransmissions included."""
