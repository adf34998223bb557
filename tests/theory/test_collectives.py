"""The ring's cost against the steps of a ring acted out; what collectives must bring to each rank."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.theory.collectives import GLOO_SEGMENT_BYTES, bus_bandwidth, has_formula, ring_tx_bytes, sends


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


GROUPS = st.integers(2, 16).flatmap(
    lambda world_size: st.tuples(st.just(world_size), st.integers(0, world_size - 1))
)
PARTS = st.integers(1, 10**8)


class Flows:
    """Sums of what the ranks of a group send and receive in a collective."""

    def __init__(self, operation: str, payload_bytes: int, world_size: int, root: int = 0) -> None:
        self.tx_bytes, self.rx_bytes = [0] * world_size, [0] * world_size
        for origin, destination, sent in sends(operation, payload_bytes, world_size, root):
            assert origin != destination
            self.tx_bytes[origin] += sent
            self.rx_bytes[destination] += sent


@given(PARTS, GROUPS)
def test_every_rank_but_the_root_receives_a_broadcast_once(
    payload_bytes: int, group: tuple[int, int]
) -> None:
    world_size, root = group
    received = Flows("broadcast", payload_bytes, world_size, root).rx_bytes
    assert received == [payload_bytes * (rank != root) for rank in range(world_size)]


@given(PARTS, GROUPS)
def test_every_rank_receives_the_inputs_of_all_others_in_an_all_gather(
    payload_bytes: int, group: tuple[int, int]
) -> None:
    world_size, _ = group
    for operation in ("all_gather", "all_gather_into_tensor", "all_gather_single"):
        received = Flows(operation, payload_bytes, world_size).rx_bytes
        assert received == [(world_size - 1) * payload_bytes] * world_size


@given(PARTS, GROUPS)
def test_only_the_root_receives_in_a_gather_and_only_it_sends_in_a_scatter(
    part_bytes: int, group: tuple[int, int]
) -> None:
    world_size, root = group
    gather = Flows("gather", part_bytes, world_size, root)
    scatter = Flows("scatter", world_size * part_bytes, world_size, root)
    of_root = [(world_size - 1) * part_bytes * (rank == root) for rank in range(world_size)]
    of_others = [part_bytes * (rank != root) for rank in range(world_size)]
    assert (gather.rx_bytes, gather.tx_bytes) == (of_root, of_others)
    assert (scatter.tx_bytes, scatter.rx_bytes) == (of_root, of_others)


@given(PARTS, GROUPS)
def test_every_two_ranks_exchange_a_part_in_an_all_to_all(part_bytes: int, group: tuple[int, int]) -> None:
    world_size, _ = group
    for operation in ("all_to_all", "all_to_all_single"):
        made = sends(operation, world_size * part_bytes, world_size)
        assert {send[:2] for send in made} == set(itertools.permutations(range(world_size), 2))
        assert [send.payload_bytes for send in made] == [part_bytes] * world_size * (world_size - 1)


@given(st.integers(0, 10**9), GROUPS)
def test_all_that_a_rank_adds_to_a_reduction_leaves_it(payload_bytes: int, group: tuple[int, int]) -> None:
    """Each rank but the root hands on all parts but its own, and the sum of its own to the root."""
    world_size, root = group
    flows = Flows("reduce", payload_bytes, world_size, root)
    of_others = [sent for rank, sent in enumerate(flows.tx_bytes) if rank != root]
    assert min(of_others) >= payload_bytes
    assert flows.rx_bytes[root] >= payload_bytes
    if payload_bytes <= 2 * world_size * GLOO_SEGMENT_BYTES:
        assert set(of_others) == {payload_bytes}


@given(st.integers(0, 10**9), GROUPS)
def test_a_reduce_scatter_takes_what_an_all_reduce_of_its_input_takes(
    payload_bytes: int, group: tuple[int, int]
) -> None:
    world_size, _ = group
    for operation in ("reduce_scatter", "reduce_scatter_tensor", "reduce_scatter_single"):
        assert sends(operation, payload_bytes, world_size) == sends("all_reduce", payload_bytes, world_size)


def test_a_barrier_has_no_payload() -> None:
    assert sends("barrier", 1000, 4) == ()


def test_a_rank_alone_sends_nothing_in_any_collective() -> None:
    for operation in ("all_reduce", "reduce", "broadcast", "all_gather", "gather", "scatter", "all_to_all"):
        assert sends(operation, 1000, 1) == ()


def test_operations_without_a_formula_are_refused() -> None:
    for operation, backend in (("send", "gloo"), ("all_gather", "nccl"), ("all_sum", "gloo")):
        assert not has_formula(operation, backend)
        with pytest.raises(KeyError, match=operation):
            sends(operation, 1000, 1, backend=backend)
