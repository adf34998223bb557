"""Nobody runs further ahead than the gate lets, whatever the delays; and nobody waits who need not."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.sync.staleness import StalenessGate

WORKERS = 4
orders = st.lists(st.integers(0, WORKERS - 1), max_size=200)


@given(order=orders, staleness=st.integers(0, 5))
def test_at_work_no_worker_is_more_than_s_steps_ahead_of_the_slowest(
    order: list[int], staleness: int
) -> None:
    gate = StalenessGate(range(WORKERS), staleness)
    finished = [0] * WORKERS
    for worker in order:
        # The order in which workers come to the gate; one that may not pass comes again later.
        assert gate.may_begin(worker) == (finished[worker] - min(finished) <= staleness)
        if gate.begin(worker, timeout_s=0):
            assert finished[worker] - min(finished) <= staleness
            finished[worker] += 1
            assert gate.finish(worker) == finished[worker] - min(finished)
    assert max(finished) - min(finished) <= staleness + 1


@given(order=orders)
def test_without_a_bound_everyone_passes(order: list[int]) -> None:
    gate = StalenessGate(range(WORKERS), None)
    for worker in order:
        assert gate.begin(worker, timeout_s=0)
        gate.finish(worker)


@pytest.mark.parametrize("staleness", [0, 2])
def test_threads_of_unequal_speed_keep_together(staleness: int) -> None:
    gate = StalenessGate(range(3), staleness)
    steps, widest = [0, 0, 0], [0]
    lock = threading.Lock()

    def work(worker: int) -> None:
        for _ in range(30):
            assert gate.begin(worker, timeout_s=20)
            with lock:
                widest[0] = max(widest[0], steps[worker] - min(steps))
            threading.Event().wait(0.002 * worker)
            with lock:
                steps[worker] += 1
            gate.finish(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert steps == [30, 30, 30]
    assert widest[0] <= staleness


def test_a_worker_that_leaves_holds_nobody_back_and_one_that_joins_begins_with_the_slowest() -> None:
    gate = StalenessGate(range(2), 0)
    gate.finish(0)
    assert not gate.may_begin(0)
    gate.leave(1)
    assert gate.may_begin(0)
    gate.finish(0)
    gate.join(1)
    assert gate.may_begin(1)
    assert gate.finish(1) == 1
    assert not gate.may_begin(1)
