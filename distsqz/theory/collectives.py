"""What each rank sends in a collective: by operation, by the algorithm of the backend, to every other rank.

Sources: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009),
section 3; Gloo's `gloo/allreduce.cc` for the direction of its ring; the names of the bandwidths are
nccl-tests' (doc/PERFORMANCE.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

UNUSED_FLAG_BYTES = 4
"""Bytes that DDP all-reduces per parameter tensor in a step in which it looks for unused parameters."""


class Send(NamedTuple):
    """Bytes that one rank sends to another in a collective."""

    origin: int
    destination: int
    payload_bytes: int


@lru_cache(maxsize=1024)
def sends(
    operation: str, payload_bytes: int, world_size: int, root: int = 0, backend: str = "gloo"
) -> Sequence[Send]:
    """Everything that the ranks send to each other in one collective.

    Args:
        operation: its name in torch.distributed, such as `all_reduce`.
        payload_bytes: payload that each rank contributes.
        world_size: number of ranks.
        root: the rank that gives or gets everything, in operations that have one.
        backend: `gloo` or `nccl`.

    Raises:
        KeyError: no formula is known for the operation and the backend.
    """
    return _ALGORITHMS[operation, backend](payload_bytes, world_size, root)


def has_formula(operation: str, backend: str = "gloo") -> bool:
    """Whether `sends` knows what an operation sends."""
    return (operation, backend) in _ALGORITHMS


def ring_tx_bytes(payload_bytes: int, world_size: int) -> int:
    """Bytes that each rank sends, and receives, in a ring all-reduce: 2 (n - 1) / n of the payload, to the
    nearest byte.

    The payload is cut into n parts. n - 1 steps add up each part around the ring, and n - 1 more distribute
    the sums.
    """
    return round(2 * (world_size - 1) * payload_bytes / world_size)


def bus_bandwidth(payload_bytes: float, world_size: int, seconds: float) -> float:
    """Bus bandwidth (busbw): bytes per second that each link of a ring carried in one direction."""
    return 2 * (world_size - 1) * payload_bytes / world_size / seconds


def _ring_all_reduce(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:  # noqa: ARG001
    """Gloo's ring goes down the ranks. NCCL orders its rings by the topology of the machine; with ranks that
    are contiguous by host, the same number of its links leaves each host.
    """
    if world_size == 1:
        return ()
    each = ring_tx_bytes(payload_bytes, world_size)
    return tuple(Send(rank, (rank - 1) % world_size, each) for rank in range(world_size))


_ALGORITHMS: Mapping[tuple[str, str], Callable[[int, int, int], Sequence[Send]]] = {
    ("all_reduce", "gloo"): _ring_all_reduce,
    ("all_reduce", "nccl"): _ring_all_reduce,
}
