"""The ring's cost against the steps of a ring acted out."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from distsqz.theory.collectives import bus_bandwidth, ring_tx_bytes


def bytes_sent_around_a_ring(payload_bytes: int, world_size: int) -> list[int]:
    """What each rank sends when every part really goes around: n - 1 steps to sum, n - 1 to hand on."""
    cuts = [payload_bytes * part // world_size for part in range(world_size + 1)]
    parts = [end - start for start, end in itertools.pairwise(cuts)]
    sent = [0] * world_size
    for step in range(2 * (world_size - 1)):
        for rank in range(world_size):
            sent[rank] += parts[(rank - step) % world_size]
    return sent


@given(payload_bytes=st.integers(0, 10**9), world_size=st.integers(1, 64))
def test_ring_sends_two_n_minus_one_over_n_of_the_payload(payload_bytes: int, world_size: int) -> None:
    acted = bytes_sent_around_a_ring(payload_bytes, world_size)
    predicted = ring_tx_bytes(payload_bytes, world_size)
    assert abs(sum(acted) / world_size - predicted) <= 0.5
    # Parts differ by a byte where the payload does not divide; so do the ranks' shares, once a step.
    assert all(abs(sent - predicted) <= 2 * world_size for sent in acted)


def test_one_rank_alone_sends_nothing() -> None:
    assert ring_tx_bytes(4_993_696, 1) == 0


def test_bytes_of_the_two_models_on_four_ranks() -> None:
    assert ring_tx_bytes(4_993_696, 4) == 7_490_544
    assert ring_tx_bytes(244_403_360, 4) == 366_605_040


def test_busbw_is_what_a_link_carried_one_way() -> None:
    assert bus_bandwidth(1_000_000, 4, seconds=0.5) == 2_000_000 * 1.5
