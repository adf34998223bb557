"""`launch/ddp.py`: what it counts, where it writes it, and how training goes on from a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from commands import SMALL, Commands, Finished, commands_that_join, commands_with_own_ray

from distsqz.metering.schema import TABLES
from distsqz.runs.arrow import schema_of
from distsqz.runs.writer import COMPLETE

pytestmark = pytest.mark.ray

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

SQUEEZENET_BYTES = 4_993_696
"""1,248,424 parameters of 4 bytes."""
ALEXNET_BYTES = 244_403_360
"""61,100,840 parameters of 4 bytes."""

PHASES = ["data_s", "forward_s", "backward_s", "exposed_comm_s", "optimizer_s", "other_s"]


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """SqueezeNet on two workers of a Ray of its own."""
    with commands_with_own_ray(tmp_path_factory.mktemp("squeezenet") / "runs") as commands:
        yield commands(
            "launch/ddp.py", "--model", "squeezenet", "--workers", 2, "--image-size", 64, "--steps", 4,
            "--warmup-steps", 2, "--format", "table",
        )  # fmt: skip


def test_every_step_of_every_rank_is_recorded(squeezenet: Finished) -> None:
    assert squeezenet.status == 0, squeezenet.stderr
    steps = squeezenet.table("steps")
    assert sorted(zip(steps["rank"], steps["step"], strict=True)) == [
        (rank, step) for rank in range(2) for step in range(6)
    ]
    assert (steps["warmup"] == (steps["step"] < 2)).all()
    assert (steps["samples"] == 16).all()


def test_two_workers_hand_over_and_send_the_model_s_size_in_every_step(squeezenet: Finished) -> None:
    steps = squeezenet.table("steps")
    for column in ("logical_tx_bytes", "logical_rx_bytes", "predicted_tx_bytes", "predicted_rx_bytes"):
        assert (steps[column] == SQUEEZENET_BYTES).all(), column  # 2(n-1)/n is 1 for two workers
    for column in ("tcp_tx_bytes", "tcp_rx_bytes"):
        assert steps[column].between(SQUEEZENET_BYTES, 1.01 * SQUEEZENET_BYTES).all(), column


def test_the_interface_carries_at_least_what_both_ranks_send_over_it(squeezenet: Finished) -> None:
    steps = squeezenet.table("steps")
    assert (steps["nic_tx_bytes"] >= steps["tcp_tx_bytes"]).all()
    (cell,) = squeezenet.run.cells
    assert cell["interface"] == "lo"


def test_the_transfers_of_a_step_add_up_to_its_logical_bytes(squeezenet: Finished) -> None:
    transfers = squeezenet.table("transfers")
    sums = transfers.groupby(["rank", "step"])["payload_bytes"].sum()
    assert len(sums) == 12
    assert (sums == SQUEEZENET_BYTES).all()
    assert (transfers["op"] == "all_reduce").all()
    assert (transfers["t_done_ns"] >= transfers["t_launch_ns"]).all()


def test_transfers_are_launched_and_done_within_their_step(squeezenet: Finished) -> None:
    steps = squeezenet.table("steps")
    both = squeezenet.table("transfers").merge(steps, on=["rank", "step"])
    ends_ns = both["t_start_ns"] + both["wall_s"] * 1e9
    clock_steps_ns = 1000
    assert (both["t_launch_ns"] >= both["t_start_ns"]).all()
    assert (both["t_done_ns"] <= ends_ns + clock_steps_ns).all()


@pytest.mark.parametrize("direction", ["tx_bytes", "rx_bytes", "retrans_bytes"])
def test_the_peers_of_a_step_add_up_to_its_tcp_bytes(squeezenet: Finished, direction: str) -> None:
    steps = squeezenet.table("steps").set_index(["rank", "step"]).sort_index()
    peers = squeezenet.table("peers")
    assert (peers["peer_rank"] == 1 - peers["rank"]).all()
    assert (
        peers.groupby(["rank", "step"])[direction].sum().equals(steps[f"tcp_{direction}"].rename(direction))
    )


def test_the_phases_of_a_step_add_up_to_its_wall_time(squeezenet: Finished) -> None:
    steps = squeezenet.table("steps")
    assert (steps[PHASES] >= 0).all(axis=None)
    assert (steps[PHASES].sum(axis=1) - steps["wall_s"]).abs().max() < 1e-6


@pytest.mark.parametrize("table", TABLES)
def test_tables_have_exactly_the_columns_and_types_of_the_schema(squeezenet: Finished, table: str) -> None:
    assert squeezenet.run.table(table).schema.equals(schema_of(TABLES[table]))


def test_run_json_tells_what_ran_and_where(squeezenet: Finished) -> None:
    meta = squeezenet.run.meta
    assert (meta["status"], meta["error"]) == (COMPLETE, None)
    assert meta["command"][:3] == ["launch/ddp.py", "--runs", str(squeezenet.runs)]
    assert meta["options"]["training"]["image_size"] == 64
    assert meta["started_at"] < meta["ended_at"]
    (cell,) = squeezenet.run.cells
    assert cell["params"] == 1_248_424
    assert cell["payload_bytes"] == SQUEEZENET_BYTES
    assert cell["steps"] == 4
    host = meta["environment"]["host"]
    assert cell["hosts"] == [host, host]
    assert cell["cores_by_host"] == {host: meta["environment"]["cores"]}
    assert cell["threads_per_worker"] == max(1, meta["environment"]["cores"] // 2)
    assert cell["device"] == "cpu"


def test_results_go_to_stdout_and_progress_to_stderr(squeezenet: Finished) -> None:
    assert f"run: {squeezenet.run.path}" in squeezenet.stderr
    assert "squeezenet-ddp-w2" in squeezenet.stderr
    assert "6/6" in squeezenet.stderr
    assert "run: " not in squeezenet.stdout
    assert squeezenet.run.run_id in squeezenet.stdout
    assert "4,993,696" in squeezenet.stdout


@pytest.mark.slow
def test_alexnet_on_two_workers_sends_its_size(joined: Commands) -> None:
    alexnet = joined(
        "launch/ddp.py", "--model", "alexnet", "--workers", 2, "--image-size", 64, "--batch-size", 2,
        "--steps", 3, "--warmup-steps", 1, "--format", "json",
    )  # fmt: skip
    assert alexnet.status == 0, alexnet.stderr
    (cell,) = json.loads(alexnet.stdout)["cells"]  # nothing else is on stdout
    assert cell["steps"] == 3
    assert cell["logical_tx_bytes"] == cell["predicted_tx_bytes"] == ALEXNET_BYTES
    assert cell["tcp_tx_bytes"] == pytest.approx(ALEXNET_BYTES, rel=1e-3)


@pytest.fixture(scope="module")
def own_model(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A model of one's own on real images, with checkpoints on the way."""
    if not FASHION_MNIST.is_dir():
        pytest.skip(f"no Fashion-MNIST in {FASHION_MNIST}: Debian's dataset-fashion-mnist has it")
    with commands_that_join(ray_address, tmp_path_factory.mktemp("own") / "runs") as commands:
        yield commands("launch/ddp.py", *OWN_MODEL, "--checkpoint-every", 3)


OWN_MODEL = (
    *SMALL, "--data", "fashion-mnist", "--lr", 0.02, "--steps", 8, "--warmup-steps", 0, "--evaluate", "end",
)  # fmt: skip


def test_a_model_of_one_s_own_trains_on_fashion_mnist_and_is_evaluated(own_model: Finished) -> None:
    assert own_model.status == 0, own_model.stderr
    (cell,) = own_model.run.cells
    assert cell["num_classes"] == 10
    steps = own_model.table("steps")
    # 3x3x3 filters for 8 channels and 128 inputs for 10 classes, with their biases
    assert (steps["logical_tx_bytes"] == 4 * (8 * 27 + 8 + 10 * 128 + 10)).all()
    (evaluation,) = own_model.table("evaluations").itertuples()
    assert (evaluation.step, evaluation.samples_seen) == (8, 64)
    assert evaluation.bytes_so_far == steps["tcp_tx_bytes"].sum()
    assert 0 < evaluation.accuracy < 1


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    own_model: Finished, joined: Commands, tmp_path: Path
) -> None:
    stopped = copy_without_newest_checkpoint(own_model.run.path, tmp_path / "stopped")
    resumed = joined("launch/ddp.py", *OWN_MODEL, "--resume", stopped)
    assert resumed.status == 0, resumed.stderr
    losses = losses_by_step(resumed)
    assert list(losses.index.unique("step")) == [6, 7]
    assert losses.equals(losses_by_step(own_model).loc[[6, 7]])
    (evaluation,) = resumed.table("evaluations").itertuples()
    (undisturbed,) = own_model.table("evaluations").itertuples()
    assert (evaluation.accuracy, evaluation.loss) == (undisturbed.accuracy, undisturbed.loss)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "stands at step 8 of 8, which leaves nothing to measure"),
        (("--workers", 3), "saved with --workers 2, not 3"),
        (("--model", "squeezenet", "--image-size", 32), "saved with --model tests.own_models:SmallNet"),
    ],
)
def test_going_on_with_something_else_is_refused(
    own_model: Finished, joined: Commands, options: tuple[object, ...], told: str
) -> None:
    refused = joined.here("launch/ddp.py", *OWN_MODEL, "--resume", own_model.run.path, *options)
    assert (refused.status, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: --resume {own_model.run.path}: ")
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_another_model_s_checkpoint_is_refused(own_model: Finished, joined: Commands) -> None:
    checkpoint = next((own_model.run.path / "checkpoints").iterdir())
    refused = joined.here("launch/ddp.py", "--model", "squeezenet", "--checkpoint", checkpoint)
    assert (refused.status, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: --checkpoint {checkpoint}: ")
    assert refused.stderr.count("\n") == 1


def copy_without_newest_checkpoint(run: Path, copy: Path) -> Path:
    """The run as it was before its last checkpoint."""
    shutil.copytree(run, copy)
    checkpoints = sorted((copy / "checkpoints").iterdir())
    assert [path.name[-11:] for path in checkpoints] == ["00000003.pt", "00000006.pt", "00000008.pt"]
    checkpoints[-1].unlink()
    return copy


def losses_by_step(finished: Finished) -> pd.Series[float]:
    return finished.table("steps").set_index(["step", "rank"])["loss"].sort_index()
