"""What each rank sends in a collective: by operation, by the algorithm of the backend, to every other rank.

Sources: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009),
section 3; the function in facebookincubator/gloo that each algorithm names; the names of the bandwidths are
nccl-tests' (doc/PERFORMANCE.md). What Gloo sends is that of torch 2.13, as the kernel counts it between ranks
(tests/theory/test_collectives_on_tcp.py). Gloo's headers are not part of it: 48 bytes a message.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

UNUSED_FLAG_BYTES = 4
"""Bytes that DDP all-reduces per parameter tensor in a step in which it looks for unused parameters."""

GLOO_SEGMENT_BYTES = 2**20
"""Most that Gloo sends in one message of a reduction (`kMaxSegmentSize` in gloo/reduce.h)."""

GLOO_ELEMENT_BYTES = 4
"""Size of a float32, which divides Gloo's segments. Other types shift the ends of parts by a few bytes."""


class Send(NamedTuple):
    """Bytes that one rank sends to another in a collective; there may be several between the same two."""

    origin: int
    destination: int
    payload_bytes: int


@lru_cache(maxsize=1024)
def sends(
    operation: str, payload_bytes: int, world_size: int, root: int = 0, backend: str = "gloo"
) -> Sequence[Send]:
    """Everything that the ranks send to each other in one collective.

    Point-to-point operations (`send`, `recv`) have no formula here: they name their peer.

    Args:
        operation: its name in torch.distributed, such as `all_reduce`.
        payload_bytes: size of what one rank hands over. `all_reduce`, `reduce`, `broadcast`: the tensor.
            `all_gather`, `gather`: its own input, one n-th of the result. `reduce_scatter`, `all_to_all`: its
            whole input, all n parts of it. `scatter`: the whole list at the root. The parts are equal.
            `barrier`: nothing, whatever is given.
        world_size: number of ranks.
        root: the rank that gives or gets everything, in operations that have one.
        backend: `gloo` or `nccl`.

    Raises:
        KeyError: no formula is known for the operation and the backend.
    """
    algorithm = _ALGORITHMS[operation, backend]
    return algorithm(payload_bytes, world_size, root) if world_size > 1 else ()


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
    """A ring down the ranks (`allreduce` in gloo/allreduce.cc).

    NCCL orders its rings by the topology of the machine; with ranks that are contiguous by host, the same
    number of its links leaves each host.
    """
    each = ring_tx_bytes(payload_bytes, world_size)
    return tuple(Send(rank, (rank - 1) % world_size, each) for rank in range(world_size))


def _all_reduce_for_one_part(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:
    """Torch all-reduces the whole input over Gloo, and each rank keeps its part: twice the bytes that a
    reduce-scatter needs (`reduce_scatter` in torch's ProcessGroupGloo.cpp).
    """
    return _ring_all_reduce(payload_bytes, world_size, root)


def _segmented_reduce(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:
    """A ring down the ranks that leaves every rank with the sum of one part, which it then sends to the root
    (`reduce` in gloo/reduce.cc).

    Parts consist of equal numbers of segments, at least two, so that the last parts of a large payload are
    smaller or empty. A rank passes on everything but the last two segments of its own part. Where a part has
    more segments than two, its owner thus sends the others without need, and the payload grows by that.
    """
    if payload_bytes == 0:
        return ()
    segment_bytes = min(_divided_up(payload_bytes, 2 * world_size), GLOO_SEGMENT_BYTES)
    segment_bytes = _divided_up(segment_bytes, GLOO_ELEMENT_BYTES) * GLOO_ELEMENT_BYTES
    part_segments = max(2, _divided_up(_divided_up(payload_bytes, segment_bytes), world_size))

    def size(first: int, last: int) -> int:
        """Bytes of the segments from `first` up to, but without, `last`."""
        return min(last * segment_bytes, payload_bytes) - min(first * segment_bytes, payload_bytes)

    made = []
    for rank in range(world_size):
        begin, end = rank * part_segments, (rank + 1) * part_segments
        made.append(Send(rank, (rank - 1) % world_size, payload_bytes - size(end - 2, end)))
        if rank != root:
            made.append(Send(rank, root, size(begin, end)))
    return tuple(made)


def _binomial_tree(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:
    """In every round each rank that has the tensor sends it to one that does not (`broadcast` in
    gloo/broadcast.cc).
    """
    made = []
    holders = 1
    while holders < world_size:
        for distance in range(min(holders, world_size - holders)):
            origin = (root + distance) % world_size
            made.append(Send(origin, (origin + holders) % world_size, payload_bytes))
        holders *= 2
    return tuple(made)


def _ring_all_gather(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:  # noqa: ARG001
    """A ring up the ranks, in which each passes on every input but that of the next rank (`allgather` in
    gloo/allgather.cc).
    """
    each = (world_size - 1) * payload_bytes
    return tuple(Send(rank, (rank + 1) % world_size, each) for rank in range(world_size))


def _all_to_root(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:
    """Every rank sends its input to the root at once (`gather` in gloo/gather.cc)."""
    return tuple(Send(rank, root, payload_bytes) for rank in range(world_size) if rank != root)


def _root_to_all(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:
    """The root sends every rank its part of the list (`scatter` in gloo/scatter.cc)."""
    return tuple(Send(root, rank, payload_bytes // world_size) for rank in range(world_size) if rank != root)


def _all_to_all(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:  # noqa: ARG001
    """Every rank sends every other its part of the input (`alltoall` in gloo/alltoall.cc)."""
    part = payload_bytes // world_size
    return tuple(Send(*pair, part) for pair in itertools.permutations(range(world_size), 2))


def _headers_alone(payload_bytes: int, world_size: int, root: int) -> Sequence[Send]:  # noqa: ARG001
    """Messages without payload (`barrier` in gloo/barrier.cc)."""
    return ()


def _divided_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


_ALGORITHMS: Mapping[tuple[str, str], Callable[[int, int, int], Sequence[Send]]] = {
    ("all_reduce", "gloo"): _ring_all_reduce,
    ("all_reduce", "nccl"): _ring_all_reduce,
    ("reduce", "gloo"): _segmented_reduce,
    ("reduce_scatter", "gloo"): _all_reduce_for_one_part,
    ("reduce_scatter_tensor", "gloo"): _all_reduce_for_one_part,
    ("reduce_scatter_single", "gloo"): _all_reduce_for_one_part,
    ("broadcast", "gloo"): _binomial_tree,
    ("all_gather", "gloo"): _ring_all_gather,
    ("all_gather_into_tensor", "gloo"): _ring_all_gather,
    ("all_gather_single", "gloo"): _ring_all_gather,
    ("gather", "gloo"): _all_to_root,
    ("scatter", "gloo"): _root_to_all,
    ("all_to_all", "gloo"): _all_to_all,
    ("all_to_all_single", "gloo"): _all_to_all,
    ("barrier", "gloo"): _headers_alone,
}
