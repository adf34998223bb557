"""What one training step before the start finds out about a model, and what it leaves as it was."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from group import run_group
from torch import Tensor, nn

from distsqz.errors import RequestError
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.training.cell import Cell
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan
from distsqz.training.try_out import try_cell

DDP, PS = AllReduce(), ParameterServer(ServerOptions(servers=1))
STRATEGIES = pytest.mark.parametrize("strategy", [DDP, PS], ids=["ddp", "ps"])


def options(**changes: Any) -> TrainingOptions:
    plain: dict[str, Any] = {"image_size": 32, "batch_size": 4, "steps": 2, "warmup_steps": 0}
    return TrainingOptions(**(plain | changes))


def plan(model: str, strategy: Strategy = DDP, **changes: Any) -> SessionPlan:
    return plan_session([f"brought_models:{model}"], 2, options(**changes), [strategy])[0]


def cell_of(model: str, strategy: Strategy = DDP, **changes: Any) -> Cell:
    return plan(model, strategy, **changes).cells[0]


def refusal(model: str, strategy: Strategy = DDP, **changes: Any) -> str:
    with pytest.raises(RequestError) as caught:
        plan(model, strategy, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@STRATEGIES
def test_a_model_that_cannot_be_laid_out_channels_last_is_trained_in_contiguous_memory(
    strategy: ServerOptions | None,
) -> None:
    planned = plan("Flat", strategy)
    (cell,) = planned.cells
    module = cell.build_replica()
    assert cell.memory_format(module) is torch.contiguous_format
    assert all(parameter.is_contiguous() for parameter in module.parameters())
    (notice,) = planned.notices
    assert "Flat: is trained in contiguous memory, not in channels_last (RuntimeError: view size" in notice


def test_channels_last_is_refused_with_the_reason_where_it_is_asked_for_and_cannot_be() -> None:
    message = refusal("Flat", channels_last="on")
    assert message.startswith(
        "channels_last on: brought_models:Flat can only be trained in contiguous memory"
    )
    assert "view size is not compatible" in message


def test_only_filters_of_two_dimensions_are_laid_out_channels_last() -> None:
    module = cell_of("Hybrid23").build_replica()
    flat, deep = module.get_parameter("conv.weight"), module.get_parameter("c3.weight")
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert deep.ndim == 5 and deep.is_contiguous()


def test_a_model_that_fails_only_under_bf16_is_refused_there_alone() -> None:
    plan("OnlyFloat32")
    assert "fails on images of shape [2, 3, 32, 32] in training mode" in refusal(
        "OnlyFloat32", precision="bf16"
    )


@STRATEGIES
@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("Aux", "returns tuple in training mode, must return a tensor of logits"),
        ("Complex", "has complex parameters (w)"),
        ("SparseEmbedding", "has sparse gradients (table.weight)"),
        ("LateLayer", "makes or replaces parameters (fc.weight, fc.bias)"),
        (
            "NoGradient",
            "fails in the backward pass (RuntimeError: element 0 of tensors does not require grad",
        ),
        ("Maps", "returns torch.float32 of shape [2, 8, 15, 15] for 2 images in training mode"),
        ("Uninitialised", "fc.bias holds 1 of 10 values that are NaN or infinite"),
    ],
)
def test_a_model_that_no_strategy_trains_right_is_refused(
    strategy: ServerOptions | None, model: str, complaint: str
) -> None:
    message = refusal(model, strategy)
    assert message.removeprefix("--").startswith(f"model brought_models:{model}: ")
    assert complaint in message


@pytest.mark.parametrize("model", ["Unused", "LayerDrop"])
def test_parameters_without_a_gradient_are_refused_under_ddp_unless_it_is_to_look_for_them(
    model: str,
) -> None:
    named = {"Unused": "left_over.weight, left_over.bias got no gradient", "LayerDrop": "blocks."}[model]
    message = refusal(model)
    assert named in message
    assert "find_unused_parameters" in message
    plan(model, AllReduce(AllReduceOptions(find_unused_parameters=True)))
    plan(model, PS)


def test_a_planned_cell_is_tried_on_the_device_that_it_is_to_train_on() -> None:
    cell = cell_of("OnlyCPU")
    try_cell(cell, "cpu")
    with pytest.raises(
        RequestError, match=r"^model brought_models:OnlyCPU on meta: cannot be moved to meta \(Run"
    ):
        try_cell(cell, "meta")


def test_a_new_data_in_forward_is_refused_by_a_parameter_server_alone() -> None:
    plan("Renorm")
    assert "gives conv.weight a new .data" in refusal("Renorm", PS)


@STRATEGIES
@pytest.mark.parametrize("model", ["WeightNorm", "SharedPlain", "NumpyInit", "RandomFeatures", "Norm"])
def test_other_unusual_models_are_taken(strategy: ServerOptions | None, model: str) -> None:
    assert plan(model, strategy).notices == []


def test_evaluation_mode_is_tried_only_where_accuracy_is_measured(tmp_path: Path) -> None:
    plan("OnlyTrains")
    write_images(tmp_path)
    data = {"data": f"imagefolder:{tmp_path}", "num_classes": 10}
    assert "fails on images of shape [2, 3, 32, 32] in evaluation mode" in refusal("OnlyTrains", **data)
    plan("OnlyTrains", evaluate="never", **data)


def write_images(folder: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (32, 32), (index, 0, 0)).save(folder / split / label / f"{index}.png")


def test_a_batch_of_one_is_tried_with_one_image() -> None:
    assert "Expected more than 1 value per channel" in refusal("NormOfOneValue", batch_size=1)
    plan("NormOfOneValue", batch_size=2)


def test_models_that_are_laid_out_in_part_or_not_at_all_train_on_every_rank(tmp_path: Path) -> None:
    names = ["brought_models:Flat", "brought_models:Hybrid23"]
    planned, _ = plan_session(names, 2, options(block_steps=2))
    boxes = run_group(planned, 2, tmp_path)
    assert [box.error for box in boxes] == [None, None]
    assert all(len(box.steps()) == 4 for box in boxes)


def states() -> tuple[Tensor, Any, Any]:
    return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def test_planning_leaves_the_random_states_and_the_start_of_training_as_they_were() -> None:
    before, threads = states(), torch.get_num_threads()
    cell = cell_of("Norm")
    first, second = cell.build(), cell.build()
    assert torch.equal(states()[0], before[0])
    assert states()[1:] == before[1:]
    assert torch.get_num_threads() == threads
    assert first.get_buffer("bn.num_batches_tracked") == 0
    assert same_values(first, second)


@pytest.mark.parametrize("model", ["NumpyInit", "RandomFeatures", "PythonInit"])
def test_the_same_seed_gives_the_same_start_whatever_draws_it(model: str) -> None:
    cell = cell_of(model)
    other = replace(cell, options=replace(cell.options, seed=1))
    assert same_values(cell.build(), cell.build())
    assert not same_values(cell.build(), other.build())


def same_values(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def test_lazy_parameters_have_their_shapes_on_every_worker() -> None:
    first, second = (cell_of("Lazy").build() for _ in range(2))
    assert first.get_parameter("fc.weight").shape == (10, 8 * 15 * 15)
    assert same_values(first, second)


def test_several_gradients_in_one_backward_pass_are_refused_under_ddp_alone() -> None:
    assert "block.weight, block.bias got several gradients" in refusal("Shared")
    plan("Shared", PS)
