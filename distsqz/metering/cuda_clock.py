"""The clock that divides a step into phases on a GPU, which computes asynchronously."""

from __future__ import annotations

import torch


class CudaClock:
    """Clock of a GPU. A mark is an event in the current CUDA stream, so that marking does not stop the
    device.
    """

    def now(self) -> torch.cuda.Event:
        """Records an event."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def settle(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Seconds between two events, after `settle`."""
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1000
