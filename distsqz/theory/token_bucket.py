"""The token bucket that shapes an emulated link: its size, and the least time of a transfer through it.

A bucket of b bytes fills at the link's rate r, and a frame passes as soon as the bucket holds its bytes. A
bucket is full when a transfer starts, so at most b + r * t bytes pass within t seconds (RFC 2697; tc-tbf(8)).
"""

from __future__ import annotations

from dataclasses import dataclass

FRAME_BYTES = 1514
"""Bytes of a full Ethernet frame."""
BURST_S = 1e-3
"""Size of a bucket, in seconds at its rate."""
LEAST_BURST_FRAMES = 10
"""Minimum size of a bucket, in full frames."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A link shaped to a rate, whose bucket is full."""

    rate_bytes_per_s: float

    @property
    def burst_bytes(self) -> int:
        """Bytes that pass at once: 1 ms at the rate of the link, and at least 10 full frames."""
        return max(round(self.rate_bytes_per_s * BURST_S), LEAST_BURST_FRAMES * FRAME_BYTES)

    def seconds(self, wire_bytes: int) -> float:
        """Least time in seconds for `wire_bytes` bytes of frames to pass; 0 if the bucket holds them all."""
        return max(0.0, (wire_bytes - self.burst_bytes) / self.rate_bytes_per_s)
