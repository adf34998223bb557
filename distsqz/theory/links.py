"""The time that links must take: the rate of each, and what its token bucket lets through at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distsqz.theory.placement import LinkLoad


def link_bound_s(
    loads: Mapping[str, LinkLoad],
    bytes_per_s: Callable[[str], float],
    burst_bytes: Callable[[str], float] = lambda _: 0,
) -> float:
    """Seconds that the links must take at least, both directions of every link busy at once.

    Args:
        loads: what each host's link carries each way, in bytes.
        bytes_per_s: the rate of a host's link in each direction, in the same bytes.
        burst_bytes: what a host's link lets through at once after a pause, on top of its rate.
    """
    return max(
        max(0.0, max(load.tx_bytes, load.rx_bytes) - burst_bytes(host)) / bytes_per_s(host)
        for host, load in loads.items()
    )
