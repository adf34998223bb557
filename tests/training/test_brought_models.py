"""Models as users bring them: DDP and a parameter server train the same parameters, or say why not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks.agreement.disturbance import disturb
from benchmarks.agreement.group import Outcome, train_each
from distsqz.data import train_batches
from distsqz.errors import RequestError
from distsqz.models.recipes import OWN_MODEL
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.training.cell import Cell
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

WORKERS = 2
PS = ParameterServer(ServerOptions(servers=2))


def options(**changes: Any) -> TrainingOptions:
    plain: dict[str, Any] = {
        "image_size": 32, "num_classes": 10, "batch_size": 4, "steps": 20, "warmup_steps": 0, "lr": 0.2,
        "threads": 1, "channels_last": "off",
    }  # fmt: skip
    return TrainingOptions(**(plain | changes))


UNUSED = AllReduce(AllReduceOptions(find_unused_parameters=True))


def train(
    names: list[str], folder: Path, strategies: tuple[Strategy, ...] = (AllReduce(), PS), **changes: Any
) -> dict[tuple[str, str], list[Outcome]]:
    """The outcomes of each rank, by model and strategy; what reads parameters too early gets NaN."""
    models = [f"brought_models:{name}" for name in names]
    plan, _ = plan_session(models, WORKERS, options(**changes), strategies)
    (outcomes,) = train_each([plan], WORKERS, folder, partial(disturb, 0))
    return {(cell.model.split(":")[1], cell.strategy.name): outcomes[cell.name] for cell in plan.cells}


def difference(one: Outcome, other: Outcome) -> float:
    """The greatest of any parameter and buffer."""
    assert not isinstance(one, str), one
    assert not isinstance(other, str), other
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


TRAINED = ["WeightNorm", "NumpyInit", "RandomFeatures", "SharedPlain", "FreshDraws", "RankDraws", "Norm"]


def test_ddp_and_ps_end_with_the_same_parameters(tmp_path: Path) -> None:
    outcomes = train(TRAINED, tmp_path, batch_size=8, lr=0.05)
    for name in TRAINED:
        assert difference(outcomes[name, "ddp"][0], outcomes[name, "ps"][0]) < 1e-6, name


def test_ps_sends_gradients_that_reentrant_checkpointing_adds_to_whole(tmp_path: Path) -> None:
    outcomes = train(["Shared", "SharedPlain"], tmp_path, (PS,), batch_size=8, lr=0.05)
    assert difference(outcomes["Shared", "ps"][0], outcomes["SharedPlain", "ps"][0]) < 1e-6


def test_workers_have_the_same_buffers_and_frozen_parameters(tmp_path: Path) -> None:
    for ranks in train(["RandomFeatures", "RankDraws"], tmp_path, steps=1).values():
        assert difference(*ranks) == 0


def test_what_cannot_be_trained_right_ends_with_the_parameter_s_name(tmp_path: Path) -> None:
    outcomes = train(["RenormLate", "Drifting", "UnusedLate"], tmp_path, steps=3)
    written = "ParameterWrittenError: the model itself changes its parameter"
    for name, strategy, line in (
        ("RenormLate", "ps", f"step 2: {written} conv.weight"),
        ("Drifting", "ps", f"step 0: {written} fc.bias"),
        ("Drifting", "ddp", "step 2: DriftError: the values of fc.bias on rank 0 and on rank 1 differ"),
        ("UnusedLate", "ddp", "step 2: UnusedParameterError: block.weight took no part"),
    ):
        for rank, outcome in enumerate(outcomes[name, strategy]):
            assert isinstance(outcome, str)
            assert f"rank {rank}, {line}" in outcome


WRITES_LATE = ["ClampedLate", "ClampedRowLate", "ClampedInBackwardLate", "NewDataLate", "NewParameterLate"]


def test_ps_refuses_a_model_that_begins_to_write_to_a_parameter_in_a_later_step(tmp_path: Path) -> None:
    outcomes = train(WRITES_LATE, tmp_path, (PS,), steps=4)
    for name in WRITES_LATE:
        for rank, outcome in enumerate(outcomes[name, "ps"]):
            assert isinstance(outcome, str), name
            assert f"rank {rank}, step 2: ParameterWrittenError: the model itself changes" in outcome, outcome
            assert "its parameter fc.weight" in outcome


def test_ps_trains_a_model_that_puts_its_values_back(tmp_path: Path) -> None:
    outcomes = train(["RoundedLate"], tmp_path, steps=4)
    assert difference(outcomes["RoundedLate", "ddp"][0], outcomes["RoundedLate", "ps"][0]) < 1e-6


@pytest.mark.parametrize(
    ("name", "strategy", "words"),
    [
        ("Unused", AllReduce(), r"left_over\.weight.* got no gradient.*find_unused_parameters"),
        ("Shared", AllReduce(), r"block\.weight.* several gradients"),
        ("Renorm", PS, r"conv\.weight a new \.data"),
        ("Clamped", PS, r"changes fc\.weight in place"),
    ],
)
def test_what_one_step_shows_is_refused_before_the_start(name: str, strategy: Strategy, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        plan_session([f"brought_models:{name}"], WORKERS, options(), [strategy])


def test_models_with_unused_parameters_train_where_that_is_asked_for(tmp_path: Path) -> None:
    outcomes = train(["Unused", "LayerDrop"], tmp_path, (UNUSED, PS), lr=0.05)
    for name in ("Unused", "LayerDrop"):
        assert difference(outcomes[name, "ddp"][0], outcomes[name, "ps"][0]) < 1e-6, name


def test_parameters_in_the_same_memory_are_refused() -> None:
    with pytest.raises(RequestError, match=r"its alias and fc.weight lie in the same memory"):
        plan_session(["brought_models:SharedMemory"], WORKERS, options(), [PS])


def test_ps_names_the_parameters_of_each_data_type_where_there_are_several() -> None:
    kinds = r"conv.weight and 1 more of torch.float32 and fc.weight and 1 more of torch.float64"
    with pytest.raises(RequestError, match=rf"has {kinds}; .* one data type .*\.to\(dtype\), or train it"):
        plan_session(["brought_models:MixedHead"], WORKERS, options(), [PS])
    plan_session(["brought_models:MixedHead"], WORKERS, options(), [AllReduce()])


DTYPES = {"Single": torch.float32, "Double": torch.float64, "Half": torch.bfloat16, "Half16": torch.float16}


def test_a_step_changes_what_plain_sgd_changes_in_every_data_type(tmp_path: Path) -> None:
    outcomes = train([*DTYPES], tmp_path, steps=1)
    plan, _ = plan_session([f"brought_models:{name}" for name in DTYPES], WORKERS, options())
    for cell, (name, dtype) in zip(plan.cells, DTYPES.items(), strict=True):
        plain = one_plain_step(cell)
        for strategy in ("ddp", "ps"):
            ours, _ = outcomes[name, strategy]
            assert not isinstance(ours, str), ours
            for parameter, (before, after) in plain.items():
                assert ours[parameter].dtype == dtype
                assert torch.equal(ours[parameter] != before, after != before), (name, strategy, parameter)
                assert torch.allclose(ours[parameter], after, rtol=0, atol=4 * torch.finfo(dtype).eps)


def one_plain_step(cell: Cell) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
    """Each parameter before and after a step of SGD, not fused, on the averaged gradient of all ranks."""
    model = cell.build()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.2,
        momentum=OWN_MODEL.momentum,
        weight_decay=OWN_MODEL.weight_decay,
        foreach=False,
        fused=False,
    )
    for rank in range(WORKERS):
        batches = train_batches(cell.open_data().train, rank=rank, world_size=WORKERS, batch_size=4, seed=0)
        images, labels = next(batches)
        logits = model(images)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        (F.cross_entropy(logits, labels) / WORKERS).backward()
    optimizer.step()
    return {name: (before[name], value.detach()) for name, value in model.named_parameters()}


@pytest.mark.slow  # loads torch's compiler in every rank
def test_compiled_models_train_the_same(tmp_path: Path) -> None:
    outcomes = train(["compiled", "CompiledForward", "Norm"], tmp_path, lr=0.05)
    for name in ("compiled", "CompiledForward"):
        assert difference(outcomes[name, "ddp"][0], outcomes[name, "ps"][0]) < 1e-6, name
    ours, plain = outcomes["CompiledForward", "ps"][0], outcomes["Norm", "ps"][0]
    assert difference(ours, plain) < 1e-6
