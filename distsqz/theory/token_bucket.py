"""The token bucket that shapes an emulated link: its size, and the time that a transfer through it must take.

A bucket of b bytes fills at the link's rate r, and a frame passes as soon as the bucket holds its bytes. A
bucket is full when a transfer starts, so at most b + r * t bytes pass within t seconds (RFC 2697; tc-tbf(8)).
"""

from __future__ import annotations

from dataclasses import dataclass

FRAME_BYTES = 1514
"""Bytes of a full Ethernet frame."""
BURST_S = 1e-3
"""Size of a bucket, as time at its rate."""
LEAST_BURST_FRAMES = 10
"""Frames that the bucket of even the slowest link holds."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A link shaped to a rate, whose bucket is full."""

    rate_bytes_per_s: float

    @property
    def burst_bytes(self) -> int:
        """Bytes that pass at once: those of 1 ms at the link's rate, and at least 10 full frames."""
        return max(round(self.rate_bytes_per_s * BURST_S), LEAST_BURST_FRAMES * FRAME_BYTES)

    def seconds(self, wire_bytes: int) -> float:
        """Least time in seconds for so many bytes of frames to pass; 0 where the bucket holds them all."""
        return max(0.0, (wire_bytes - self.burst_bytes) / self.rate_bytes_per_s)
