"""Every element of every parameter is owned once, and the shards own alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.errors import RequestError
from distsqz.strategies.parameter_server.layout import (
    CHUNK_BYTES,
    LEAST_CHUNKS,
    ROOM_BYTES,
    WINDOW,
    Layout,
    chunk_bytes_for,
    plan_layout,
)

ALEXNET_ELEMENTS = [23_232, 64, 307_200, 192, 663_552, 384, 884_736, 256, 589_824, 256]
ALEXNET_ELEMENTS += [37_748_736, 4096, 16_777_216, 4096, 4_096_000, 1000]
SQUEEZENET_TOTAL = 1_248_424

sizes = st.lists(st.integers(0, 5000), min_size=1, max_size=12).filter(lambda elements: sum(elements) >= 8)


def owned(layout: Layout) -> list[int]:
    """Elements by shard."""
    return [sum(map(layout.chunk_size, layout.owned_by(shard))) for shard in range(layout.shards)]


@given(elements=sizes, shards=st.integers(1, 8), chunk_bytes=st.integers(4, 20_000))
def test_pieces_cover_every_element_once_and_in_order(
    elements: list[int], shards: int, chunk_bytes: int
) -> None:
    layout = plan_layout(elements, shards, chunk_bytes=chunk_bytes)
    covered = [
        (piece.parameter, piece.begin + i, piece.chunk * layout.chunk_elements + piece.offset + i)
        for piece in layout.pieces
        for i in range(piece.elements)
    ]
    flat = [(parameter, place) for parameter, size in enumerate(elements) for place in range(size)]
    assert covered == [(*each, place) for place, each in enumerate(flat)]
    assert all(piece.offset + piece.elements <= layout.chunk_elements for piece in layout.pieces)
    assert 4 * layout.chunk_elements <= chunk_bytes + 4


@given(elements=sizes, shards=st.integers(1, 8), chunk_bytes=st.integers(4, 20_000))
def test_every_chunk_has_an_owner_and_every_shard_a_chunk(
    elements: list[int], shards: int, chunk_bytes: int
) -> None:
    layout = plan_layout(elements, shards, chunk_bytes=chunk_bytes)
    owners = [layout.shard_of(chunk) for chunk in range(layout.chunks)]
    assert set(owners) == set(range(shards))
    assert all(owners[chunk] == shard for shard in range(shards) for chunk in layout.owned_by(shard))
    assert sum(owned(layout)) == sum(elements)
    assert max(owned(layout)) - min(owned(layout)) <= 2 * layout.chunk_elements


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 6])
def test_alexnet_is_cut_into_large_messages_and_dealt_evenly(shards: int) -> None:
    layout = plan_layout(ALEXNET_ELEMENTS, shards)
    assert 0.7 * CHUNK_BYTES < 4 * layout.chunk_elements <= CHUNK_BYTES
    assert max(owned(layout)) - min(owned(layout)) <= layout.chunks


@pytest.mark.parametrize("total", [100, 1000, SQUEEZENET_TOTAL, 61_100_840])
def test_the_cuts_do_not_depend_on_how_many_shards_share_them(total: int) -> None:
    cuts = {plan_layout([total], shards).chunk_elements for shards in (1, 2, 3, 4, 6)}
    assert len(cuts) == 1


@pytest.mark.parametrize("workers", [1, 4, 8, 100])
def test_a_shard_s_room_for_messages_does_not_grow_with_the_workers(workers: int) -> None:
    layout = plan_layout(ALEXNET_ELEMENTS, 1, chunk_bytes=chunk_bytes_for(workers))
    assert workers * WINDOW * 4 * layout.chunk_elements <= ROOM_BYTES


def test_a_small_model_is_cut_often_enough_to_overlap() -> None:
    assert plan_layout([SQUEEZENET_TOTAL], 1).chunks == LEAST_CHUNKS


@pytest.mark.parametrize("shards", [0, 11])
def test_more_shards_than_elements_are_refused(shards: int) -> None:
    with pytest.raises(RequestError, match=f"servers {shards}: 1 to 10"):
        plan_layout([4, 6], shards)
