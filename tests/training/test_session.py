"""What a session's workers record, and how they fail."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from group import Box, run_group
from PIL import Image
from small_models import small_net
from torch.nn import functional as F

from distsqz.data import evaluation_batches
from distsqz.errors import RequestError
from distsqz.metering.schema import EvaluationRecord, PeerRecord, TransferRecord
from distsqz.models.preprocessing import CAFFE
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import interleaved
from distsqz.weights.archive import write_archive
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised

MODEL = "small_models:small_net"


def options(**changes: Any) -> TrainingOptions:
    plain: dict[str, Any] = {
        "image_size": 64,
        "num_classes": 10,
        "batch_size": 4,
        "steps": 4,
        "warmup_steps": 1,
    }
    return TrainingOptions(**(plain | changes))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> list[Box]:
    """SqueezeNet and a small model side by side on three ranks."""
    plan, _ = plan_session(["squeezenet", MODEL], 3, options(block_steps=2, num_classes=1000))
    return run_group(plan, 3, tmp_path_factory.mktemp("three"))


def test_cells_take_turns_forwards_and_backwards() -> None:
    assert list(interleaved(2, 4)) == [0, 1, 1, 0, 0, 1, 1, 0]
    assert list(islice(interleaved(3, 2), 6)) == [0, 1, 2, 2, 1, 0]


def test_blocks_follow_each_other_in_time(boxes: list[Box]) -> None:
    steps = sorted(boxes[0].steps(), key=lambda step: step.t_start_ns)
    order = [("s" if step.model == "squeezenet" else "m", step.warmup) for step in steps]
    assert order[:2] == [("s", True), ("m", True)]
    assert "".join(name for name, _ in order[2:]) == "ssmmmmss"


def test_a_baseline_trains_as_one_worker_without_others_does(tmp_path: Path) -> None:
    plan, _ = plan_session([MODEL], 2, options(block_steps=2), baseline=True)
    folders = [tmp_path / "two", tmp_path / "one"]
    for folder in folders:
        folder.mkdir()
    first, second = run_group(plan, 2, folders[0])
    (one,) = run_group(plan_session([MODEL], 1, options())[0], 1, folders[1])
    name = "small_models.small_net-alone-w1"
    assert first.losses(name) == pytest.approx(one.losses(), rel=1e-5)
    assert second.steps(name) == []
    assert len(second.steps()) == len(first.steps()) - len(first.steps(name))
    assert (
        first.facts[name]["threads_per_worker"]
        == first.facts[name]["cores_by_host"][first.facts[name]["hosts"][0]]
    )


def test_every_rank_counts_the_ring_s_bytes_to_within_a_percent(boxes: list[Box]) -> None:
    for box in boxes:
        for step in (step for step in box.steps() if step.model == "squeezenet"):
            assert step.logical_tx_bytes == step.logical_rx_bytes == 4_993_696
            assert step.predicted_tx_bytes == pytest.approx(4 / 3 * 4_993_696, abs=2)  # rounded by bucket
            assert step.tcp_tx_bytes is not None and step.tcp_rx_bytes is not None
            assert step.predicted_tx_bytes <= step.tcp_tx_bytes <= 1.01 * step.predicted_tx_bytes


def test_a_ring_sends_to_one_neighbour_and_hears_from_the_other(boxes: list[Box]) -> None:
    for rank, box in enumerate(boxes):
        peers = [peer for peer in box.records["peers"] if isinstance(peer, PeerRecord) and peer.step == 3]
        squeezenet = {peer.peer_rank: peer for peer in peers if peer.cell == "squeezenet-ddp-w3"}
        sent_much = {peer for peer, counts in squeezenet.items() if counts.tx_bytes > 1_000_000}
        heard_much = {peer for peer, counts in squeezenet.items() if counts.rx_bytes > 1_000_000}
        # Gloo's ring runs towards the lower rank.
        assert (sent_much, heard_much) == ({(rank - 1) % 3}, {(rank + 1) % 3})


def test_phases_and_the_rest_add_up_to_the_step(boxes: list[Box]) -> None:
    for box in boxes:
        for step in box.steps():
            assert step.exposed_comm_s is not None
            computing = step.data_s + step.forward_s + step.backward_s + step.optimizer_s
            assert computing + step.exposed_comm_s + step.other_s == pytest.approx(step.wall_s, abs=1e-9)
            assert min(step.data_s, step.forward_s, step.backward_s, step.exposed_comm_s) >= 0
        # A busy machine may interrupt a step between two phases, but not most of them.
        assert median(step.other_s - 0.01 * step.wall_s for step in box.steps()) < 1e-3


def test_transfers_lie_within_their_step_and_carry_its_payload(boxes: list[Box]) -> None:
    for box in boxes:
        transfers = [each for each in box.records["transfers"] if isinstance(each, TransferRecord)]
        for step in box.steps():
            of_step = [each for each in transfers if (each.cell, each.step) == (step.cell, step.step)]
            assert sum(each.payload_bytes for each in of_step) == step.logical_tx_bytes
            for each in of_step:
                assert each.t_done_ns is not None
                end_ns = step.t_start_ns + step.wall_s * 1e9
                assert step.t_start_ns <= each.t_launch_ns <= each.t_done_ns <= end_ns + 1000


def test_buckets_are_as_large_as_asked_for(tmp_path: Path) -> None:
    plan, _ = plan_session(
        ["squeezenet"], 2, options(num_classes=1000, steps=3), [AllReduce(AllReduceOptions(bucket_mb=1.0))]
    )
    box = run_group(plan, 2, tmp_path)[0]
    transfers = [each for each in box.records["transfers"] if isinstance(each, TransferRecord)]
    last = [each for each in transfers if each.step == 3]
    assert len(last) >= 3
    assert sum(each.payload_bytes for each in last) == 4_993_696
    assert [each.bucket for each in last] == list(range(len(last)))


def test_flags_of_unused_parameters_are_counted_as_a_transfer(tmp_path: Path) -> None:
    strategy = AllReduce(AllReduceOptions(find_unused_parameters=True))
    plan, (entry,) = plan_session(["brought_models:Unused"], 2, options(steps=3), [strategy])
    box = run_group(plan, 2, tmp_path)[0]
    step = box.steps()[-1]
    assert step.logical_tx_bytes == entry["payload_bytes"] + 4 * entry["tensors"]
    transfers = [each for each in box.records["transfers"] if isinstance(each, TransferRecord)]
    last = [each for each in transfers if each.step == 3]
    assert last[-1].payload_bytes == 4 * entry["tensors"]
    assert step.tcp_tx_bytes is not None and step.predicted_tx_bytes is not None
    # Gloo's own messages are of some hundred bytes for each all-reduce, more than this model's payload.
    assert 0 <= step.tcp_tx_bytes - step.predicted_tx_bytes < 1200 * len(last)


def test_unmetered_steps_leave_their_counters_unknown(tmp_path: Path) -> None:
    plan, _ = plan_session([MODEL], 2, options(metered=False))
    (step, *_) = run_group(plan, 2, tmp_path)[0].steps()
    assert step.wall_s > 0
    unknown = (step.exposed_comm_s, step.logical_tx_bytes, step.predicted_tx_bytes, step.tcp_tx_bytes,
               step.nic_tx_bytes, step.sched_wait_s)  # fmt: skip
    assert unknown == (None,) * 6


def test_one_worker_alone_sends_nothing(tmp_path: Path) -> None:
    plan, _ = plan_session([MODEL], 1, options())
    step = run_group(plan, 1, tmp_path)[0].steps()[-1]
    assert (step.predicted_tx_bytes, step.tcp_tx_bytes) == (0, 0)


def test_a_failure_names_host_rank_step_and_reason(tmp_path: Path) -> None:
    plan, _ = plan_session(["small_models:FailsOnRankOne"], 2, options())
    box = run_group(plan, 2, tmp_path)[1]
    assert box.error is not None
    assert "rank 1, step 2: ValueError: no more patience" in box.error
    assert len(box.steps()) == 2


def test_a_loss_that_is_no_number_stops_training_with_advice(tmp_path: Path) -> None:
    plan, _ = plan_session(["squeezenet"], 1, options(lr=1e6, steps=20))
    (box,) = run_group(plan, 1, tmp_path)
    assert box.error is not None
    assert "`lr`" in box.error


def test_accuracy_is_that_of_one_process_over_all_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 11)):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 255, (70, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    asked = options(
        data=f"imagefolder:{tmp_path}", num_classes=None, evaluate="end", checkpoint_every=5, loader_workers=0
    )
    plan, _ = plan_session(["small_models:normed_net"], 2, asked)
    boxes = run_group(plan, 2, tmp_path)
    (evaluation,) = boxes[0].records["evaluations"]
    assert "evaluations" not in boxes[1].records
    assert isinstance(evaluation, EvaluationRecord)

    model = plan.cells[0].build()
    model.load_state_dict(boxes[0].checkpoint(5).model)
    validation = plan.cells[0].open_data().validation
    assert validation is not None
    ((images, labels),) = evaluation_batches(validation, rank=0, world_size=1, batch_size=64)
    with torch.no_grad():
        logits = model.eval()(images)
    assert len(labels) == 22
    assert evaluation.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert evaluation.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert evaluation.samples_seen == 5 * 8
    assert evaluation.bytes_so_far == sum(step.tcp_tx_bytes or 0 for box in boxes for step in box.steps())


def test_images_are_prepared_as_the_initial_weights_expect_also_after_a_resumption(tmp_path: Path) -> None:
    for index in range(4):
        file = tmp_path / "train" / "orange" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 80), (200, 100, 50)).save(file)
    name = "small_models:small_net"
    shapes = {key: value.shape for key, value in small_net(1).state_dict().items()}
    tensors = {key: Quantised(np.ones(shape, np.int32), 0.1) for key, shape in shapes.items()}
    info = ModelInfo(name=name, num_classes=1, preprocessing=CAFFE)
    write_archive(tmp_path / "m.sqz", CompressedModel(info, tensors))
    asked = options(
        data=f"imagefolder:{tmp_path}", num_classes=None, batch_size=4, steps=2, warmup_steps=0,
        checkpoint_every=1, loader_workers=0,
    )  # fmt: skip
    plan, _ = plan_session([name], 1, asked, checkpoint=tmp_path / "m.sqz")
    (box,) = run_group(plan, 1, tmp_path)
    (tmp_path / "step-1.pt").write_bytes(box.checkpoint(1).to_bytes())
    resumed, _ = plan_session([name], 1, asked, resume=tmp_path / "step-1.pt")
    for (cell,) in (plan.cells, resumed.cells):
        data = cell.open_data()
        images, _ = data.train.batch(np.array([0]), np.array([False]))
        assert images[0, :, 0, 0].tolist() == [50 - 104, 100 - 117, 200 - 123]  # BGR, less Caffe's means
        assert (data.preprocessing.resize_to, images.shape[-1]) == ("square", asked.image_size)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": 0}, "steps 0: must be at least 1"),
        ({"batch_size": 0}, "batch_size 0: must be at least 1"),
        ({"lr": -1.0}, "lr -1.0: must be a number above 0"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError) as refusal:
        options(**changes)
    assert str(refusal.value) == line


def test_a_bucket_that_is_no_size_is_refused_in_one_line() -> None:
    with pytest.raises(RequestError, match="bucket_mb nan: must be a number above 0"):
        AllReduceOptions(bucket_mb=float("nan"))


def test_a_session_without_models_is_refused() -> None:
    with pytest.raises(RequestError, match="models: none given"):
        plan_session([], 2, options())


def test_squeezenet_s_ratios_reach_squeezenet_alone() -> None:
    plan, _ = plan_session(["squeezenet", MODEL], 2, options(squeeze_ratio=0.25))
    assert [cell.options.squeeze_ratio for cell in plan.cells] == [0.25, None]
    with pytest.raises(RequestError, match=r"squeeze_ratio 0.25: alexnet has no such ratio"):
        plan_session(["alexnet"], 2, options(squeeze_ratio=0.25))


def test_evaluating_without_validation_images_is_refused() -> None:
    with pytest.raises(RequestError, match="evaluate end: `data=synthetic` has no validation images"):
        plan_session([MODEL], 2, options(evaluate="end"))


def test_parameters_from_two_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="give one of them"):
        plan_session([MODEL], 2, options(), checkpoint=tmp_path / "a.pth", resume=tmp_path / "b")


def test_resuming_from_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file or run directory"):
        plan_session([MODEL], 2, options(), resume=tmp_path / "nothing")
