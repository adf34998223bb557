"""Least time that links need for their load, at the rate of each link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from distsqz.theory.placement import LinkLoad
from distsqz.theory.shipping import wire_bytes
from distsqz.theory.token_bucket import TokenBucket


class Link(Protocol):
    """A host's link, with the same rate in both directions."""

    def seconds(self, payload_bytes: int) -> float:
        """Least time in seconds for a payload to pass in one direction."""


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """A link with a measured goodput, in bytes of TCP payload per second."""

    goodput_bytes_per_s: float

    def seconds(self, payload_bytes: int) -> float:
        """Least time in seconds for a payload to pass in one direction."""
        return payload_bytes / self.goodput_bytes_per_s


@dataclass(frozen=True, slots=True)
class ShapedLink:
    """A link whose frames a token bucket shapes to a rate; the bucket is full when transfers begin."""

    rate_bytes_per_s: float

    def seconds(self, payload_bytes: int) -> float:
        """Least time in seconds for the frames of a payload to pass in one direction."""
        return TokenBucket(self.rate_bytes_per_s).seconds(wire_bytes(payload_bytes))


def link_bound_s(loads: Mapping[str, LinkLoad], links: Mapping[str, Link]) -> float:
    """Seconds until the last link has carried its load, with both directions of every link in use at once.

    Args:
        loads: payload that each host's link carries in each direction.
        links: the link of each of these hosts.
    """
    return max(links[host].seconds(max(load.tx_bytes, load.rx_bytes)) for host, load in loads.items())
