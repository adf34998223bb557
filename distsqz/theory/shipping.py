"""The cost of shipping a file from one host to many: bytes on the wire, and the time that links must take.

Every client is sent a copy of its own, so the sender's link carries all of them. Frame sizes are those of
Ethernet (IEEE 802.3) and of TCP with timestamps over IPv4 (RFC 9293, RFC 7323).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SEGMENT_BYTES = 1448
"""Payload of a full frame: 1500 bytes less 20 of IPv4, 20 of TCP and 12 of its timestamps."""
HEADER_BYTES = 66
"""Of a frame: those, and 14 of Ethernet."""


def wire_bytes(payload_bytes: int) -> int:
    """Bytes of the frames that carry a payload one way; acknowledgements go the other way."""
    return payload_bytes + HEADER_BYTES * -(-payload_bytes // SEGMENT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippingBound:
    """The time that shipping must take at least, and the link that takes it."""

    seconds: float
    bottleneck: Literal["head", "clients"]


def shipping_bound(
    size_bytes: int, head_bytes_per_s: float, client_bytes_per_s: Sequence[float]
) -> ShippingBound:
    """The last client has its copy after max(clients * S / head's rate, S / slowest client's rate) seconds.

    Args:
        size_bytes: of one copy, S; with its headers where the rates count them.
        head_bytes_per_s: what the sender's link carries.
        client_bytes_per_s: what each client's link carries; a share of it where clients share a link.
    """
    head_s = len(client_bytes_per_s) * size_bytes / head_bytes_per_s
    clients_s = size_bytes / min(client_bytes_per_s)
    if head_s > clients_s:
        return ShippingBound(seconds=head_s, bottleneck="head")
    return ShippingBound(seconds=clients_s, bottleneck="clients")
