"""The cost of a ring all-reduce.

Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009),
section 3; the names of the bandwidths are nccl-tests' (doc/PERFORMANCE.md).
"""

from __future__ import annotations


def ring_tx_bytes(payload_bytes: int, world_size: int) -> int:
    """Bytes that each rank sends, and receives: 2 (n - 1) / n of the payload, to the nearest byte.

    The payload is cut in n parts; n - 1 steps sum each part around the ring, n - 1 more hand the sums on.
    """
    return round(2 * (world_size - 1) * payload_bytes / world_size)


def bus_bandwidth(payload_bytes: int, world_size: int, seconds: float) -> float:
    """Bus bandwidth (busbw) in bytes a second: what each link carried one way, comparable to its rate."""
    return ring_tx_bytes(payload_bytes, world_size) / seconds
