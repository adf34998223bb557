"""The binomial tree of the ranks, with rank 0 as its root."""

from __future__ import annotations


def parent_of(rank: int) -> int | None:
    """The rank that sums of a rank and those below it are sent to; None for the root."""
    return rank & (rank - 1) if rank else None


def children_of(rank: int, world_size: int) -> list[int]:
    """The ranks that send their sums to a rank, in the order in which these become ready."""
    children, distance = [], 1
    while not rank & distance and rank + distance < world_size:
        children.append(rank + distance)
        distance *= 2
    return children
