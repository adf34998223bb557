"""Predictions: a step's bracket and the rate that is enough, from the bytes of the strategies alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.strategy import DEDICATED, ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.theory.collectives import ring_tx_bytes
from distsqz.theory.prediction import (
    EFFICIENT,
    SUSTAINED_SHARE,
    Bracket,
    goodput_bytes_per_s,
    links_busy_s,
    rate_bits_per_s,
    step_s,
    sufficient_rate_bits_per_s,
)


def busy_s(
    strategy: Strategy, payload_bytes: int, hosts: int, goodput: float = 1e8, arrangement: str | None = None
) -> Bracket:
    placement = strategy.arranged(arrangement or strategy.name, hosts, servers=1)
    loads = strategy.planned_load_by_host(payload_bytes, placement)
    return links_busy_s(loads.values(), goodput, full_duplex=strategy.is_full_duplex)


PAYLOADS = st.integers(10_000, 10**9)
HOSTS = st.integers(2, 32)


@given(PAYLOADS, HOSTS)
def test_an_all_reduce_takes_what_the_ring_sends(payload_bytes: int, hosts: int) -> None:
    communication = busy_s(AllReduce(), payload_bytes, hosts)
    assert communication.low == communication.high == ring_tx_bytes(payload_bytes, hosts) / 1e8


@given(PAYLOADS, HOSTS)
def test_servers_beside_the_workers_take_as_long_as_an_all_reduce_if_directions_overlap(
    payload_bytes: int, hosts: int
) -> None:
    server = busy_s(ParameterServer(), payload_bytes, hosts)
    ring = busy_s(AllReduce(), payload_bytes, hosts)
    assert [server.low, server.high] == pytest.approx([ring.low, 2 * ring.low], rel=0.01)


@given(PAYLOADS, HOSTS)
def test_one_dedicated_server_carries_every_worker_twice_where_nothing_overlaps(
    payload_bytes: int, hosts: int
) -> None:
    server = busy_s(ParameterServer(), payload_bytes, hosts, arrangement=DEDICATED)
    assert server.low == pytest.approx(hosts * payload_bytes / 1e8)
    assert server.high == pytest.approx(2 * server.low)


@given(st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_a_step_takes_the_longer_part_at_least_and_both_at_most(compute_s: float, transfer_s: float) -> None:
    step = step_s(compute_s, Bracket(transfer_s, transfer_s))
    assert step.low == max(compute_s, transfer_s)
    assert step.high == compute_s + transfer_s / SUSTAINED_SHARE
    assert step.inverted(1.0).low == 1 / step.high


@given(PAYLOADS, HOSTS, st.floats(1e-3, 10))
def test_at_the_rate_that_is_enough_a_step_has_just_that_efficiency(
    payload_bytes: int, hosts: int, compute_s: float
) -> None:
    enough = sufficient_rate_bits_per_s(compute_s, busy_s(AllReduce(), payload_bytes, hosts, 1.0))
    at_low, at_high = (
        step_s(compute_s, busy_s(AllReduce(), payload_bytes, hosts, goodput_bytes_per_s(rate)))
        for rate in (enough.low, enough.high)
    )
    assert compute_s / at_low.low == pytest.approx(EFFICIENT)
    assert compute_s / at_high.high == pytest.approx(EFFICIENT)


def test_goodput_is_that_of_full_ethernet_frames() -> None:
    assert goodput_bytes_per_s(10**9) == pytest.approx(119.55e6, rel=1e-3)
    assert rate_bits_per_s(goodput_bytes_per_s(10**8)) == pytest.approx(10**8)


def test_only_brackets_that_do_not_touch_are_in_order() -> None:
    assert Bracket(1, 2).below(Bracket(2.1, 3))
    assert not Bracket(1, 2).below(Bracket(2, 3))
