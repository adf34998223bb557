"""The cost of a ring all-reduce.

Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009),
section 3; the names of the bandwidths are nccl-tests' (doc/PERFORMANCE.md).
"""

from __future__ import annotations

from collections import defaultdict

from distsqz.theory.placement import LinkLoad, Placement

UNUSED_FLAG_BYTES = 4
"""Bytes that DDP all-reduces per parameter tensor in a step in which it looks for unused parameters."""


def ring_tx_bytes(payload_bytes: int, world_size: int) -> int:
    """Bytes that each rank sends, and receives: 2 (n - 1) / n of the payload, to the nearest byte.

    The payload is cut into n parts. n - 1 steps add up each part around the ring, and n - 1 more distribute
    the sums.
    """
    return round(2 * (world_size - 1) * payload_bytes / world_size)


def ring_successor(rank: int, world_size: int) -> int:
    """The rank that `rank` sends to.

    Source: gloo/allreduce.cc, `ring`, which goes down the ranks. NCCL orders its rings by the topology of the
    machine; with ranks that are contiguous by host, the same number of its links leaves each host.
    """
    return (rank - 1) % world_size


def ring_crosses(rank: int, placement: Placement) -> tuple[bool, bool]:
    """Whether what a rank sends, and what it receives, crosses a link between hosts."""
    hosts = placement.workers
    to, origin = ring_successor(rank, len(hosts)), (rank + 1) % len(hosts)
    return placement.crosses(hosts[rank], hosts[to]), placement.crosses(hosts[origin], hosts[rank])


def ring_load_by_host(payload_bytes: int, placement: Placement) -> dict[str, LinkLoad]:
    """Load of each host's link in one all-reduce, in bytes of payload in each direction.

    Args:
        payload_bytes: payload that each rank contributes.
        placement: the hosts of the ranks.
    """
    each_way = ring_tx_bytes(payload_bytes, len(placement.workers))
    loads: defaultdict[str, LinkLoad] = defaultdict(LinkLoad)
    for rank, host in enumerate(placement.workers):
        sends, receives = ring_crosses(rank, placement)
        loads[host] += LinkLoad(each_way * sends, each_way * receives)
    return dict(loads)


def bus_bandwidth(payload_bytes: int, world_size: int, seconds: float) -> float:
    """Bus bandwidth (busbw): bytes per second that each link of the ring carried in one direction."""
    return ring_tx_bytes(payload_bytes, world_size) / seconds
