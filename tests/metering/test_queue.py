"""What the queue of an interface drops, and what that leaves of TCP's repetitions."""

from __future__ import annotations

import sys

import pytest

from distsqz.metering.queue import QueueMeter, retransmitted_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's queues")
def test_loopback_has_no_queue_that_drops() -> None:
    meter = QueueMeter("lo")
    assert meter.take_dropped_packets() == 0
    meter.close()
    assert meter.take_dropped_packets() is None


def test_an_interface_that_is_not_there_drops_an_unknown_number() -> None:
    meter = QueueMeter("nosuch0")
    assert meter.take_dropped_packets() is None
    meter.close()


@pytest.mark.parametrize(
    ("repeated", "dropped", "retransmitted"),
    [(0, 0, 0), (0, 5, 0), (0, None, 0), (1448, 0, 1448), (1448, 5, None), (1448, None, None)],
)
def test_what_tcp_repeats_was_on_the_wire_twice_only_if_the_queue_dropped_nothing(
    repeated: int, dropped: int | None, retransmitted: int | None
) -> None:
    assert retransmitted_bytes(repeated, dropped) == retransmitted
