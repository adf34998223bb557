"""Training on a GPU: the same loop, timed by CUDA's events, over NCCL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from group import Box

from distsqz.metering.schema import TransferRecord
from distsqz.theory.placement import Placement
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.replica import Replica
from distsqz.training.session import train_session

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")

STEPS = 6


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """What one rank on a GPU records of SqueezeNet in fp32 and AlexNet in bf16 side by side."""
    store = dist.FileStore(str(Path(tmp_path_factory.mktemp("nccl")) / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    torch.cuda.set_device(0)
    options = TrainingOptions(
        image_size=64, batch_size=16, steps=STEPS, warmup_steps=2, block_steps=3, precision="bf16"
    )
    plan, _ = plan_session(["squeezenet", "alexnet"], 1, options, baseline=True)
    replica = Replica(
        rank=0,
        placement=Placement(workers=["here"]),
        cores=4,
        device="cuda:0",
        address="127.0.0.1",
        interface="lo",
    )
    kept = Box()
    train_session(plan, replica, kept)
    dist.destroy_process_group()
    yield kept


def test_every_step_of_both_models_is_recorded(box: Box) -> None:
    steps = [step for step in box.steps() if step.strategy == "ddp"]
    assert {step.model for step in steps} == {"squeezenet", "alexnet"}
    assert all(step.cell == f"{step.model}-ddp-w1" for step in steps)
    assert len(steps) == 2 * (STEPS + 2)
    assert all(step.loss > 0 for step in steps)


def test_baselines_are_timed_between_the_blocks_of_the_other_cells(box: Box) -> None:
    alone = [step for step in box.steps() if step.strategy == "alone"]
    assert {step.cell for step in alone} == {"squeezenet-alone-w1", "alexnet-alone-w1"}
    assert len(alone) == 2 * (STEPS + 2)
    assert all(step.wall_s > 0 and step.logical_tx_bytes is None for step in alone)


def test_the_phases_add_up_to_the_step(box: Box) -> None:
    for step in (step for step in box.steps() if step.strategy == "ddp"):
        assert step.exposed_comm_s is not None
        phases = (step.data_s, step.forward_s, step.backward_s, step.exposed_comm_s, step.optimizer_s)
        assert min(phases) >= 0
        assert sum(phases) + step.other_s == pytest.approx(step.wall_s, rel=1e-6, abs=1e-6)


def test_the_payload_is_counted_and_tcp_is_unknown_on_a_gpu(box: Box) -> None:
    for step in (step for step in box.steps() if step.strategy == "ddp"):
        payload = {"squeezenet": 4_993_696, "alexnet": 244_403_360}[step.model]
        assert step.logical_tx_bytes == payload
        assert step.predicted_tx_bytes == 0  # a ring of one rank sends nothing
        assert step.tcp_tx_bytes is None
    transfers = [each for each in box.records["transfers"] if isinstance(each, TransferRecord)]
    assert transfers
    assert {each.t_done_ns for each in transfers} == {None}  # NCCL does not tell the host when it is done
