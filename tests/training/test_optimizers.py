"""Optimizers, clipping and micro-batches: torch's own parameters, and gradients that are sent once a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from group import Box, run_group
from torch.nn import functional as F

from distsqz.data import train_batches
from distsqz.errors import InvalidValue
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.reduction_tree.strategy import ReductionTree
from distsqz.strategies.strategy import Strategy
from distsqz.training.cell import Cell
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

MODEL = "small_models:double_squeezenet"
STEPS = 3


def options(**changes: Any) -> TrainingOptions:
    plain = {"image_size": 32, "num_classes": 10, "batch_size": 4, "steps": STEPS, "warmup_steps": 0}
    plain |= {"threads": 1, "evaluate": "never", "checkpoint_every": STEPS, "lr": 0.002}
    return TrainingOptions(**(plain | changes))


def train(folder: Path, world_size: int, strategy: Strategy, **changes: Any) -> tuple[Cell, Box]:
    folder.mkdir()
    plan, _ = plan_session([MODEL], world_size, options(**changes), [strategy])
    boxes = run_group(plan, world_size, folder)
    assert [box.error for box in boxes] == [None] * world_size
    return plan.cells[0], boxes[0]


def by_torch(cell: Cell, optimizer_of: Any, clip_norm: float) -> dict[str, torch.Tensor]:
    """One process, torch's own optimizer."""
    model = cell.build()
    optimizer = optimizer_of(model.parameters(), lr=0.002, weight_decay=cell.recipe().weight_decay)
    batches = train_batches(
        cell.open_data().train, rank=0, world_size=1, batch_size=4, seed=cell.options.seed
    )
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = cell.recipe().lr_at(step, STEPS)
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize(("name", "of_torch"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_an_adaptive_optimizer_with_clipping_is_torch_s(tmp_path: Path, name: str, of_torch: Any) -> None:
    cell, box = train(tmp_path / name, 1, AllReduce(), optimizer=name, clip_norm=0.5)
    expected = by_torch(cell, of_torch, clip_norm=0.5)
    for parameter, value in box.checkpoint(STEPS).model.items():
        assert torch.allclose(value, expected[parameter], rtol=0, atol=1e-9)


@pytest.mark.parametrize("strategy", [AllReduce(), ReductionTree()])
def test_micro_batches_train_as_whole_batches_do_and_send_gradients_once_a_step(
    tmp_path: Path, strategy: Strategy
) -> None:
    (_, whole), (_, parts) = (
        train(tmp_path / str(micro), 2, strategy, micro_batches=micro) for micro in (1, 4)
    )
    for name, value in whole.checkpoint(STEPS).model.items():
        assert torch.allclose(value, parts.checkpoint(STEPS).model[name], rtol=0, atol=1e-10)
    for one, other in zip(whole.steps(), parts.steps(), strict=True):
        assert one.logical_tx_bytes == other.logical_tx_bytes
        assert one.loss == pytest.approx(other.loss)
        measured_s = other.data_s + other.forward_s + other.backward_s + other.optimizer_s + other.other_s
        assert measured_s + other.exposed_comm_s == pytest.approx(other.wall_s, abs=1e-6)


@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"clip_norm": 1.0}, {"micro_batches": 2}])
def test_a_parameter_server_refuses_what_its_shards_cannot_do(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="not with a parameter server"):
        plan_session([MODEL], 2, options(**changes), [ParameterServer()])


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"micro_batches 3: must divide `batch_size=4`"):
        options(micro_batches=3)
