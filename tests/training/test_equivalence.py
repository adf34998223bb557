"""Training in a group computes what training in one process computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from group import run_group
from torch.nn import functional as F

from distsqz.data import open_data, train_batches
from distsqz.errors import RequestError
from distsqz.metering.schema import TABLES
from distsqz.models.recipes import OWN_MODEL
from distsqz.runs.writer import RunWriter
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

STEPS = 5


def options(**changes: Any) -> TrainingOptions:
    plain: dict[str, Any] = {
        "image_size": 64,
        "num_classes": 10,
        "batch_size": 4,
        "steps": STEPS,
        "warmup_steps": 0,
        "lr": 0.01,
        "channels_last": "off",
        "checkpoint_every": STEPS,
    }
    return TrainingOptions(**(plain | changes))


def trained_in_one_process(model: torch.nn.Module, joined_batch: int) -> Mapping[str, torch.Tensor]:
    """The textbook loop: momentum SGD on the joined batch."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=OWN_MODEL.momentum, weight_decay=OWN_MODEL.weight_decay
    )
    data = open_data("synthetic", image_size=64, seed=0, num_classes=10)
    batches = train_batches(data.train, rank=0, world_size=1, batch_size=joined_batch, seed=0)
    for _ in range(STEPS):
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


PS = ParameterServer(ServerOptions(servers=2))

MOST_ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-2}
"""Upper bounds on the distance that rounding can put between two runs, as a share of what five steps change.

Both runs round each parameter once a step, by at most 2**-53 (fp32: 2**-24) of its value. Five steps of
SqueezeNet change the parameters by 8e-5 of their norm, so rounding them comes to at most
2 * 5 * 2**-53 / 8e-5 = 1.4e-11 of the change (fp32: 7.5e-3). The rest is for the gradients, sums of up to 3e4
products, which each processor adds in its own order.
"""


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("double_squeezenet", AllReduce()),
        ("double_squeezenet", PS),
        ("squeezenet_without_dropout", PS),
        pytest.param("alexnet_without_dropout", AllReduce(), marks=pytest.mark.slow),
        pytest.param("double_alexnet", AllReduce(), marks=pytest.mark.slow),
        pytest.param("double_alexnet", PS, marks=pytest.mark.slow),
    ],
)
def test_two_workers_train_the_parameters_of_one_process_on_the_joined_batch(
    name: str, strategy: Strategy, tmp_path: Path
) -> None:
    plan, _ = plan_session([f"small_models:{name}"], 2, options(), [strategy])
    (box, _) = run_group(plan, 2, tmp_path)
    assert box.error is None
    trained = box.checkpoint(STEPS).model
    precision = torch.float64 if name.startswith("double") else torch.float32
    assert {parameter.dtype for parameter in trained.values()} == {precision}
    together = flat(trained)
    start = flat(plan.cells[0].build().state_dict())
    alone = flat(trained_in_one_process(plan.cells[0].build(), joined_batch=8))
    assert (together - alone).norm() <= MOST_ROUNDING[precision] * (alone - start).norm()


def flat(parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All parameters as one vector, in float64."""
    return torch.cat([parameter.flatten().double() for parameter in parameters.values()])


def test_the_same_seed_gives_the_same_losses_again_and_another_seed_others(tmp_path: Path) -> None:
    def losses(seed: int, folder: str) -> list[list[float]]:
        (tmp_path / folder).mkdir()
        plan, _ = plan_session(["small_models:small_net"], 2, options(seed=seed))
        return [box.losses() for box in run_group(plan, 2, tmp_path / folder)]

    first = losses(seed=7, folder="first")
    assert losses(seed=7, folder="again") == first
    assert losses(seed=8, folder="other") != first


def test_side_by_side_a_model_trains_as_it_does_alone(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    model, other = "small_models:small_net", "squeezenet"
    alone, _ = plan_session([model], 2, options())
    beside, _ = plan_session([other, model], 2, options(block_steps=2))
    losses_alone = [box.losses() for box in run_group(alone, 2, tmp_path / "alone")]
    cell = beside.cells[1].name
    assert [box.losses(cell) for box in run_group(beside, 2, tmp_path)] == losses_alone


def test_a_run_goes_on_with_more_steps_from_its_own_directory(tmp_path: Path) -> None:
    model = "small_models:small_net"
    asked = options(steps=3, checkpoint_every=3)
    short, entries = plan_session([model], 1, asked)
    (tmp_path / "short").mkdir()
    (box,) = run_group(short, 1, tmp_path / "short")
    run = RunWriter.create(tmp_path / "runs", "short", [], {}, entries, tables=TABLES)
    run.save_checkpoint(short.cells[0].name, 3, box.checkpoint(3).to_bytes())
    other = replace(box.checkpoint(3), seed=1, options=None)
    run.save_checkpoint("another-cell", 9, other.to_bytes())  # newer, but not of this training
    longer, _ = plan_session([model], 1, replace(asked, steps=6), resume=run.path)
    assert longer.cells[0].spec.id != short.cells[0].spec.id
    (resumed,) = run_group(longer, 1, tmp_path)
    assert [step.step for step in resumed.steps()] == [3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bf16"}, "saved with `precision=fp32`, not bf16; give `precision=fp32`"),
        ({"image_size": 32}, "saved with `image_size=64`, not 32; give `image_size=64`"),
    ],
)
def test_training_that_computes_something_else_does_not_go_on(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    model = "small_models:small_net"
    plan, _ = plan_session([model], 1, options())
    (cell,) = plan.cells
    checkpoint = Checkpoint(
        model_name=model,
        num_classes=10,
        world_size=1,
        batch_size=4,
        seed=0,
        step=1,
        tx_bytes=None,
        model=cell.build().state_dict(),
        optimizer={},
        options=cell.spec.resume_key(),
    )
    saved = tmp_path / "saved.pt"
    saved.write_bytes(checkpoint.to_bytes())
    with pytest.raises(RequestError, match=message):
        plan_session([model], 1, options(**changes), resume=saved)


def test_a_resumed_run_makes_the_losses_of_an_undisturbed_one(tmp_path: Path) -> None:
    model = "small_models:small_net"
    (tmp_path / "whole").mkdir()
    plan, _ = plan_session([model], 2, options(steps=6, checkpoint_every=3))
    whole = run_group(plan, 2, tmp_path / "whole")
    saved = tmp_path / "step-3.pt"
    saved.write_bytes(whole[0].checkpoint(3).to_bytes())
    rest, _ = plan_session([model], 2, options(steps=6, checkpoint_every=3), resume=saved)
    resumed = run_group(rest, 2, tmp_path)
    assert [box.losses() for box in resumed] == [box.losses()[3:] for box in whole]
    assert [step.step for step in resumed[0].steps()] == [3, 4, 5]
    with pytest.raises(RequestError, match="saved with `seed=0`, not 1"):
        plan_session([model], 2, options(steps=6, seed=1), resume=saved)
    end, undisturbed = resumed[0].checkpoint(6), whole[0].checkpoint(6)
    # A new DDP agrees on its buckets once more, which is all that it sends besides.
    assert 0 <= (end.tx_bytes or 0) - (undisturbed.tx_bytes or 0) < 4096
    assert all(torch.equal(end.model[key], value) for key, value in undisturbed.model.items())
