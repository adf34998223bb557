"""TCP's payload is counted right on a slow link, whether or not the sender's own queue drops packets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from labs import lab_up

from distsqz.lab import links
from distsqz.metering.queue import retransmitted_bytes

COUNTED_STREAMS = Path(__file__).with_name("counted_streams.py")
STREAMS, BYTES = 3, 1_000_000


def counted_at(rate: str) -> dict[str, Any]:
    """What the counters of h1 say of streams to h2."""
    with lab_up(2, rate) as here:
        receiving = here.start_on("h2", sys.executable, COUNTED_STREAMS, "receive", STREAMS)
        assert receiving.stdout is not None
        port = receiving.stdout.readline().strip()
        said = here.on("h1", sys.executable, COUNTED_STREAMS, "send", "h2", port, STREAMS, BYTES)
        receiving.communicate(timeout=30)
        counted: dict[str, Any] = json.loads(said)
    return counted


def test_a_short_queue_drops_packets_and_each_byte_still_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "QUEUE_S", 20e-3)
    counted = counted_at("20mbit")
    assert {stream["written_bytes"] for stream in counted["streams"]} == {BYTES}
    assert {stream["acknowledged_bytes"] for stream in counted["streams"]} == {BYTES}
    repeated_bytes = sum(stream["repeated_bytes"] for stream in counted["streams"])
    assert counted["dropped_packets"] > 0
    assert repeated_bytes > 0
    # How much of it was on the wire twice cannot be told, so nothing is called that.
    assert retransmitted_bytes(repeated_bytes, counted["dropped_packets"]) is None


def test_the_queue_of_a_lab_drops_nothing_at_20_mbit() -> None:
    counted = counted_at("20mbit")
    assert counted["dropped_packets"] == 0
    assert {stream["acknowledged_bytes"] for stream in counted["streams"]} == {BYTES}
