"""Which chunk a worker pushes next: urgent ones first, but in nearly the same order on all workers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from distsqz.sync.push_queue import MOST_OVERTAKERS, PushQueue

CHUNKS = 24
BY_LAYER = range(CHUNKS - 1, -1, -1)
"""The order in which chunks become ready if each belongs to a layer of its own."""
PACES = st.lists(st.integers(0, 6), max_size=CHUNKS)


def pushed(ready: Sequence[int], pace: Iterable[int]) -> list[int]:
    """The order in which chunks are pushed, if so many of them become ready before each push."""
    queue, coming, order = PushQueue[int](), deque(ready), list[int]()
    for count in itertools.chain(pace, itertools.repeat(len(ready))):
        for _ in range(min(count, len(coming))):
            chunk = coming.popleft()
            queue.put(chunk, chunk)
        if queue:
            order.append(queue.take())
        if len(order) == len(ready):
            break
    return order


def test_the_most_urgent_chunks_overtake() -> None:
    assert pushed([2, 1, 0], [3]) == [0, 1, 2]
    assert pushed(BY_LAYER, [CHUNKS])[:MOST_OVERTAKERS] == [*range(MOST_OVERTAKERS)]


@given(st.permutations(range(CHUNKS)), PACES)
def test_a_chunk_is_overtaken_by_a_few_at_most(ready: list[int], pace: list[int]) -> None:
    order = pushed(ready, pace)
    assert sorted(order) == [*range(CHUNKS)]
    for chunk in ready:
        before = order[: order.index(chunk)]
        overtakers = [other for other in before if ready.index(other) > ready.index(chunk)]
        assert len(overtakers) <= MOST_OVERTAKERS


def test_a_chunk_that_becomes_ready_while_others_wait_is_next() -> None:
    queue = PushQueue[str]()
    queue.put(7, "late")
    queue.put(9, "last")
    assert queue.take() == "late"
    queue.put(0, "first")
    assert [queue.take(), queue.take()] == ["first", "last"]
    assert not queue
