"""The reduction tree: a tree of all ranks, the parameters of all-reduce, and the bytes of its formula."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from group import run_group
from hypothesis import given
from hypothesis import strategies as st

from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.reduction_tree.strategy import ReductionTree
from distsqz.strategies.reduction_tree.tree import children_of, parent_of
from distsqz.theory.placement import LinkLoad, Placement
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

MODEL = "small_models:double_squeezenet"


@given(world_size=st.integers(1, 200))
def test_every_rank_but_the_root_has_one_parent_and_the_tree_is_as_deep_as_a_binomial_one(
    world_size: int,
) -> None:
    for rank in range(world_size):
        assert all(parent_of(child) == rank for child in children_of(rank, world_size))
    children = [child for rank in range(world_size) for child in children_of(rank, world_size)]
    assert sorted(children) == list(range(1, world_size))
    assert len(children_of(0, world_size)) == (world_size - 1).bit_length()


def test_the_root_s_link_carries_the_payload_of_each_child_both_ways() -> None:
    load = ReductionTree().planned_load_by_host(1000, Placement(workers=["a", "b", "c", "d"]))
    assert load == {
        "a": LinkLoad(2000, 2000),
        "b": LinkLoad(1000, 1000),
        "c": LinkLoad(2000, 2000),
        "d": LinkLoad(1000, 1000),
    }


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_it_trains_the_parameters_of_all_reduce_and_sends_what_its_formula_says(
    tmp_path: Path, world_size: int
) -> None:
    options = TrainingOptions(
        image_size=32, num_classes=10, batch_size=2, steps=3, warmup_steps=1, lr=0.02, threads=1,
        evaluate="never", checkpoint_every=4,
    )  # fmt: skip
    plan, (entry, _) = plan_session([MODEL], world_size, options, [AllReduce(), ReductionTree()])
    boxes = run_group(plan, world_size, tmp_path)
    assert [box.error for box in boxes] == [None] * world_size
    saved = {
        cell: torch.load(io.BytesIO(content), weights_only=True)["model"]
        for (cell, _), content in boxes[0].checkpoints.items()
    }
    ring, tree = (saved[cell.name] for cell in plan.cells)
    for name, value in ring.items():
        assert torch.allclose(value, tree[name], rtol=0, atol=1e-10)
    payload_bytes = entry["payload_bytes"]
    for rank, box in enumerate(boxes):
        neighbours = len(children_of(rank, world_size)) + (rank > 0)
        for step in box.steps():
            if step.strategy == "reduction_tree":
                waited_s = (
                    sum(
                        each.t_done_ns - each.t_launch_ns
                        for each in box.records["transfers"]
                        if (each.cell, each.step) == (step.cell, step.step)
                    )
                    / 1e9
                )
                assert step.exposed_comm_s == pytest.approx(waited_s, rel=0.05, abs=2e-3)
                assert step.predicted_tx_bytes == neighbours * payload_bytes
                assert step.tcp_tx_bytes is not None
                assert (
                    0 <= step.tcp_tx_bytes - step.predicted_tx_bytes <= 1e-3 * step.predicted_tx_bytes + 500
                )
