"""Compressors of gradients: what they send, what they train, and that a resumed run goes on alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from group import Box, run_group

from distsqz.errors import InvalidValue
from distsqz.metering.schema import StepRecord
from distsqz.models.registry import ModelOptions, make_model
from distsqz.strategies.all_reduce.compressors.powersgd import PowerSGD
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.strategy import TensorKind
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

MODEL = "small_models:squeezenet_without_dropout"


def options(**changes: Any) -> TrainingOptions:
    plain = {"image_size": 64, "num_classes": 10, "batch_size": 4, "steps": 4, "warmup_steps": 3, "lr": 0.02}
    return TrainingOptions(**(plain | {"threads": 1, "evaluate": "never"} | changes))


def train(
    folder: Path, world_size: int, compressor: str, *, of: TrainingOptions | None = None, **of_strategy: Any
) -> tuple[dict[str, Any], list[Box]]:
    """A cell's entry in run.json and each rank's box."""
    strategy = AllReduce(AllReduceOptions(compressor=compressor, **of_strategy))
    plan, (entry,) = plan_session([MODEL], world_size, of or options(checkpoint_every=100), [strategy])
    folder.mkdir(exist_ok=True)
    boxes = run_group(plan, world_size, folder)
    assert [box.error for box in boxes] == [None] * world_size
    return entry, boxes


def last_step(box: Box) -> StepRecord:
    return box.steps()[-1]


def flat(checkpoint: Checkpoint) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in checkpoint.model.values()])


def newest(box: Box) -> Checkpoint:
    return box.checkpoint(max(step for _, step in box.checkpoints))


@pytest.mark.parametrize(
    ("compressor", "rounding", "world_size"),
    [
        ("bf16", 2**-8, 3),
        ("fp16", 2**-11, 2),
        pytest.param("bf16", 2**-8, 2, marks=pytest.mark.slow),
        pytest.param("fp16", 2**-11, 3, marks=pytest.mark.slow),
    ],
)
def test_half_precision_averages_as_float32_does_within_its_rounding(
    tmp_path: Path, world_size: int, compressor: str, rounding: float
) -> None:
    """The changes of one step differ by what rounding each gradient and each partial sum can come to."""
    one = options(steps=1, warmup_steps=0, checkpoint_every=1)
    plain_entry, plain = train(tmp_path / "plain", world_size, "none", of=one)
    entry, boxes = train(tmp_path / compressor, world_size, compressor, of=one)
    start = torch.cat([value.double().flatten() for value in model().state_dict().values()])
    change, plain_change = (flat(newest(each[0])) - start for each in (boxes, plain))
    assert (change - plain_change).norm() <= 2 * world_size * rounding * plain_change.norm()
    assert (change - plain_change).norm() > 0
    sent, whole = last_step(boxes[0]), last_step(plain[0])
    assert sent.logical_tx_bytes == entry["sent_payload_bytes"] == whole.logical_tx_bytes // 2
    assert plain_entry["sent_payload_bytes"] == plain_entry["payload_bytes"]
    assert sent.predicted_tx_bytes == round(2 * (world_size - 1) / world_size * sent.logical_tx_bytes)


def model() -> torch.nn.Module:
    plan, _ = plan_session([MODEL], 1, options())
    return plan.cells[0].build()


def test_powersgd_sends_what_its_formula_says(tmp_path: Path) -> None:
    entry, boxes = train(tmp_path, 2, "powersgd")
    for box in boxes:
        assert {step.logical_tx_bytes for step in box.steps() if not step.warmup} == {
            entry["sent_payload_bytes"]
        }
        whole = [step.logical_tx_bytes for step in box.steps() if step.step < 2]
        assert whole == [entry["payload_bytes"]] * 2
        last = [each for each in box.records["transfers"] if each.step == 6]
        assert [each.op for each in last] == ["all_reduce"] * 3


def test_a_matrix_that_would_not_become_smaller_is_left_as_it_is() -> None:
    compressor = PowerSGD(rank=4)
    fully_connected = TensorKind((4096, 9216), 4)
    assert compressor.payload_bytes([fully_connected]) == 4 * 4 * (4096 + 9216)
    assert compressor.payload_bytes([TensorKind((4096,), 4)]) == 4 * 4096
    assert compressor.payload_bytes([TensorKind((16, 96, 1, 1), 4)]) == 4 * 4 * (16 + 96)
    assert compressor.payload_bytes([TensorKind((10, 10), 4)]) == 400
    with pytest.raises(InvalidValue, match="single number"):
        compressor.payload_bytes([TensorKind((), 4)])


def test_alexnet_under_powersgd_sends_the_bytes_of_the_literature() -> None:
    """4 workers, rank 4: 0.96 MB a rank and step by the ring's formula."""
    alexnet = make_model(ModelOptions(model="alexnet", image_size=224), 1000)
    kinds = [TensorKind(tuple(each.shape), 4) for each in alexnet.parameters()]
    assert 1.5 * PowerSGD(rank=4).payload_bytes(kinds) == pytest.approx(0.96e6, rel=0.05)


@pytest.fixture
def many_tensors_between_processes() -> Iterator[None]:
    """Shares tensors through files: a process takes at most 253 descriptors at once."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    yield
    torch.multiprocessing.set_sharing_strategy(before)


@pytest.mark.usefixtures("many_tensors_between_processes")
def test_a_resumed_run_under_powersgd_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    asked = options(steps=6, warmup_steps=0, checkpoint_every=4)
    strategy = AllReduce(AllReduceOptions(compressor="powersgd", bucket_mb=0.2))
    whole, _ = plan_session([MODEL], 2, asked, [strategy])
    (box, _) = run_group(whole, 2, tmp_path)
    assert box.error is None
    saved = tmp_path / "step-4.pt"
    saved.write_bytes(box.checkpoint(4).to_bytes())
    states = box.checkpoint(4).rank_states
    assert states is not None and all(states)
    rest, _ = plan_session([MODEL], 2, asked, [strategy], resume=saved)
    (tmp_path / "rest").mkdir()
    (resumed, _) = run_group(rest, 2, tmp_path / "rest")
    assert resumed.error is None
    assert torch.equal(flat(box.checkpoint(6)), flat(resumed.checkpoint(6)))


def test_options_of_a_compressor_that_is_not_chosen_tell_no_cells_apart() -> None:
    vary = {"compressor": ["none", "powersgd"], "powersgd_rank": [2, 4]}
    plan, _ = plan_session([MODEL], 2, options(), vary=vary)
    names = [cell.name for cell in plan.cells]
    assert len(names) == 3
    assert sum("powersgd" in name for name in names) == 2


def test_an_unknown_compressor_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidValue, match="compressor gzip: is none of none fp16 bf16 powersgd"):
        AllReduceOptions(compressor="gzip")
    with pytest.raises(InvalidValue, match="powersgd_rank 0: must be at least 1"):
        replace(AllReduceOptions(), powersgd_rank=0)
