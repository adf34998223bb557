"""Nobody runs further ahead than the gate lets, whatever the delays; and nobody waits who need not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distsqz.strategies.parameter_server.staleness import StalenessGate

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
        if gate.may_begin(worker):
            finished[worker] += 1
            gate.finish(worker)
            assert gate.slowest() == min(finished)
    assert max(finished) - min(finished) <= staleness + 1


@given(order=orders)
def test_without_a_bound_everyone_passes(order: list[int]) -> None:
    gate = StalenessGate(range(WORKERS), None)
    for worker in order:
        assert gate.may_begin(worker)
        gate.finish(worker)


def test_a_worker_that_leaves_holds_nobody_back_and_one_that_joins_counts_from_its_step() -> None:
    gate = StalenessGate(range(2), 0)
    gate.finish(0)
    assert not gate.may_begin(0)
    gate.leave(1)
    assert gate.may_begin(0)
    gate.finish(0)
    gate.join(1, 2)
    assert gate.may_begin(1)
    gate.finish(1)
    assert not gate.may_begin(1)
