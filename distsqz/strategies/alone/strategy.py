"""The baseline: rank 0 trains by itself, and nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.strategies.strategy import Sent, Strategy
from distsqz.theory.placement import Placement


class Alone(Strategy):
    """One worker by itself, with all cores of its host."""

    name = "alone"
    title = "one worker alone"
    abbreviation = "alone"
    worker = "distsqz.strategies.alone.worker:LoneReplica"
    is_baseline = True

    def planned(self, payload_bytes: int, rank: int, placement: Placement) -> Sequence[Sent]:  # noqa: ARG002
        """Nothing is handed over."""
        return []
