"""Every element of every parameter is owned once, and the shards own alike."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.errors import RequestError
from distsqz.sync.layout import CHUNK_BYTES, plan_layout

ALEXNET_ELEMENTS = [23_232, 64, 307_200, 192, 663_552, 384, 884_736, 256, 589_824, 256]
ALEXNET_ELEMENTS += [37_748_736, 4096, 16_777_216, 4096, 4_096_000, 1000]

sizes = st.lists(st.integers(0, 5000), min_size=1, max_size=12).filter(lambda elements: sum(elements) >= 8)


@given(elements=sizes, shards=st.integers(1, 8), chunk_bytes=st.integers(4, 20_000))
def test_chunks_cover_every_element_once_and_in_order(
    elements: list[int], shards: int, chunk_bytes: int
) -> None:
    chunks = plan_layout(elements, shards, chunk_bytes=chunk_bytes)
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    covered = [(piece.parameter, place) for piece in pieces for place in range(piece.begin, piece.end)]
    assert covered == [(parameter, place) for parameter, size in enumerate(elements) for place in range(size)]
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.elements > 0 for chunk in chunks)


@given(elements=sizes, shards=st.integers(1, 8), chunk_bytes=st.integers(4, 20_000))
def test_shards_own_alike_to_within_an_element_a_chunk(
    elements: list[int], shards: int, chunk_bytes: int
) -> None:
    chunks = plan_layout(elements, shards, chunk_bytes=chunk_bytes)
    owned = Counter[int]()
    for chunk in chunks:
        owned[chunk.shard] += chunk.elements
    assert set(owned) == set(range(shards))
    a_round = -(-len(chunks) // shards)
    largest = max(chunk.elements for chunk in chunks)
    slack = a_round if len(chunks) % shards == 0 else largest
    assert max(owned.values()) - min(owned.values()) <= slack


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_alexnet_is_cut_into_messages_of_the_size_asked_for(shards: int) -> None:
    chunks = plan_layout(ALEXNET_ELEMENTS, shards)
    assert sum(chunk.elements for chunk in chunks) == 61_100_840
    assert all(0.9 * CHUNK_BYTES < chunk.elements * 4 <= CHUNK_BYTES for chunk in chunks)
    owned = [sum(chunk.elements for chunk in chunks if chunk.shard == shard) for shard in range(shards)]
    assert max(owned) - min(owned) <= len(chunks)


@pytest.mark.parametrize("shards", [0, 11])
def test_more_shards_than_elements_are_refused(shards: int) -> None:
    with pytest.raises(RequestError, match=f"--servers {shards}: 1 to 10"):
        plan_layout([4, 6], shards)
