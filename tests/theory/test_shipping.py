"""What shipping must cost, against figures worked out by hand."""

from __future__ import annotations

import pytest

from distsqz.theory.shipping import shipping_bound, wire_bytes

MBIT = 10**6 / 8


def test_a_full_frame_takes_1514_bytes_for_1448() -> None:
    assert wire_bytes(1448) == 1514
    assert wire_bytes(1449) == 1449 + 2 * 66
    assert wire_bytes(0) == 0
    assert wire_bytes(244_403_360) / 244_403_360 == pytest.approx(1514 / 1448, rel=1e-6)


def test_alexnet_over_10_mbit_takes_each_of_8_clients_204_s() -> None:
    bound = shipping_bound(wire_bytes(244_403_360), 1000 * MBIT, [10 * MBIT] * 8)
    assert bound.seconds == pytest.approx(204.4, abs=0.1)
    assert bound.bottleneck == "clients"


def test_a_head_as_slow_as_its_clients_is_the_bottleneck() -> None:
    bound = shipping_bound(10**6, 10 * MBIT, [10 * MBIT] * 8)
    assert bound.seconds == pytest.approx(6.4)
    assert bound.bottleneck == "head"


def test_the_slowest_client_is_the_last() -> None:
    assert shipping_bound(10**6, 1000 * MBIT, [10 * MBIT, MBIT]).seconds == pytest.approx(8)
