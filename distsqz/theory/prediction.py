"""What a training step takes on another network, as a bracket that needs no fit.

A step computes, and its links carry what the strategy must send. It takes the longer of the two if
communication hides behind computing as far as it can, and their sum if none of it does. Of a parameter
server's transfers those in opposite directions overlap likewise, or do not; a ring's always do. At the upper
end links carry no more than training sustained in measurements. Latency and late hosts are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distsqz.theory.placement import LinkLoad
from distsqz.theory.shipping import HEADER_BYTES, SEGMENT_BYTES

EFFICIENT = 0.9
"""Efficiency from which communication is said not to matter."""
SUSTAINED_SHARE = 0.93
"""Least share of a TCP stream's goodput that links carried while models trained by all-reduce at 100 Mbit/s
and 1 Gbit/s (benchmarks/link/README.md): streams start and probe, and buckets end one after the other."""
LEAST_SUSTAINED_BITS_PER_S = 10**8
"""Rate of the slowest links on which that share was measured. On slower ones training sustained less
(benchmarks/prediction/README.md), so the upper end is no bound there."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """The least and the most that a figure can be."""

    low: float
    high: float

    def inverted(self, numerator: float) -> Bracket:
        """The bracket of a numerator divided by the figure."""
        return Bracket(numerator / self.high, numerator / self.low)

    def below(self, other: Bracket) -> bool:
        """Whether the figure is smaller than another for certain."""
        return self.high < other.low


def goodput_bytes_per_s(rate_bits_per_s: float) -> float:
    """TCP payload a second that full Ethernet frames carry at a link's rate."""
    return rate_bits_per_s / 8 * SEGMENT_BYTES / (SEGMENT_BYTES + HEADER_BYTES)


def rate_bits_per_s(goodput: float) -> float:
    """The rate of a link that carries a goodput, in bytes a second, in full Ethernet frames."""
    return goodput * 8 * (SEGMENT_BYTES + HEADER_BYTES) / SEGMENT_BYTES


def links_busy_s(loads: Iterable[LinkLoad], goodput: float, *, full_duplex: bool) -> Bracket:
    """Time that communication keeps the busiest link busy: both directions at once, or one after the other.

    Args:
        loads: payload that each host's link carries in a step.
        goodput: bytes a second that each link carries in each direction.
        full_duplex: whether the algorithm keeps both directions busy at once.
    """
    every = list(loads)
    at_once = max(max(load.tx_bytes, load.rx_bytes) for load in every) / goodput
    in_turn = max(load.tx_bytes + load.rx_bytes for load in every) / goodput
    return Bracket(at_once, at_once if full_duplex else in_turn)


def step_s(compute_s: float, communication_s: Bracket) -> Bracket:
    """Time of a step, from perfect overlap over links that are full to none over links that are not."""
    return Bracket(max(compute_s, communication_s.low), compute_s + communication_s.high / SUSTAINED_SHARE)


def sufficient_rate_bits_per_s(compute_s: float, communication_at_1_s: Bracket) -> Bracket:
    """The rate of the links from which a step has `EFFICIENT` of one machine's efficiency.

    Args:
        compute_s: time that a step computes.
        communication_at_1_s: time that communication takes at a goodput of 1 byte a second: bytes.
    """
    with_overlap = communication_at_1_s.low * EFFICIENT / compute_s
    without = communication_at_1_s.high / SUSTAINED_SHARE / (compute_s * (1 / EFFICIENT - 1))
    return Bracket(rate_bits_per_s(with_overlap), rate_bits_per_s(without))
