"""The cost of shipping a file from one host to many: bytes on the wire, and least time of the links.

Every client receives its own copy, so the sender's link carries all of them. Frame sizes are those of
Ethernet (IEEE 802.3) and of TCP with timestamps over IPv4 (RFC 9293, RFC 7323).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distsqz.theory.token_bucket import TokenBucket

SEGMENT_BYTES = 1448
"""Payload of a full frame: 1500 bytes less 20 of IPv4, 20 of TCP and 12 of its timestamps."""
HEADER_BYTES = 66
"""Headers of a frame: those of IPv4 and TCP, and 14 bytes of Ethernet."""


def wire_bytes(payload_bytes: int) -> int:
    """Bytes of the frames that carry a payload in one direction, without acknowledgements in the other."""
    return payload_bytes + HEADER_BYTES * -(-payload_bytes // SEGMENT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLink:
    """The link of a host with clients."""

    bucket: TokenBucket
    copies: int = 1
    """Copies that the link carries: one for each client on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippingBound:
    """Least time of a shipment, and the link that limits it."""

    seconds: float
    bottleneck: Literal["head", "clients"] | None
    """Hosts whose link limits the shipment; None if the bound is 0, because every bucket holds its whole
    load."""


def shipping_bound(copy_bytes: int, head: TokenBucket, clients: Sequence[ClientLink]) -> ShippingBound:
    """Least time until the last client has its copy.

    A copy of S bytes passes two buckets, the head's and then its host's. Within t seconds a link of rate r
    and bucket b lets at most b + r * t bytes through, so a link that carries k copies needs
    (k * S - b) / r seconds; the head's carries all copies. The bound is the longest of these times.

    The bound can be reached: a bucket passes a frame on at once, so two in series let through as much as the
    tighter one, min(b1 + r1 * t, b2 + r2 * t) (Le Boudec and Thiran, "Network Calculus", section 1.5: shapers
    in series).

    Args:
        copy_bytes: frames of one copy, S, with their headers.
        head: the sender's link.
        clients: the links of all hosts with clients, at least one.
    """
    copies = sum(link.copies for link in clients)
    head_s = head.seconds(copies * copy_bytes)
    clients_s = max(link.bucket.seconds(link.copies * copy_bytes) for link in clients)
    if head_s > clients_s:
        return ShippingBound(seconds=head_s, bottleneck="head")
    return ShippingBound(seconds=clients_s, bottleneck="clients" if clients_s > 0 else None)
