"""`launch/ps.py`: what it counts, where servers stand, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from commands import SMALL, Commands, Finished, commands_that_join, report

pytestmark = pytest.mark.ray

ALEXNET_BYTES = 244_403_360
"""61,100,840 parameters of 4 bytes."""


@pytest.fixture(scope="module")
def alexnet(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """AlexNet on two workers, in turns through two shards and under all-reduce."""
    with commands_that_join(ray_address, tmp_path_factory.mktemp("alexnet") / "runs") as commands:
        yield commands(
            "launch/compare.py", "--models", "alexnet", "--strategies", "ddp", "ps", "--workers", 2,
            "--servers", 2, "--image-size", 64, "--batch-size", 2, "--num-classes", 1000,
            "--steps", 4, "--warmup-steps", 1, "--block-steps", 1, "--no-baseline",
        )  # fmt: skip


@pytest.fixture(scope="module")
def said(alexnet: Finished) -> dict[str, Any]:
    """The report on it."""
    assert alexnet.status == 0, alexnet.stderr
    return report(alexnet.run.path)


def served(alexnet: Finished, table: str) -> pd.DataFrame:
    """The rows of the cell with the parameter server."""
    return alexnet.table(table).query("cell == 'alexnet-ps-w2'")


def test_a_worker_pushes_and_pulls_the_model_s_size_in_every_step(alexnet: Finished) -> None:
    assert alexnet.status == 0, alexnet.stderr
    steps = served(alexnet, "steps")
    for column in ("logical_tx_bytes", "logical_rx_bytes", "predicted_tx_bytes", "predicted_rx_bytes"):
        assert (steps[column] == ALEXNET_BYTES).all(), column
    measured = steps[~steps["warmup"]].groupby("rank")[["tcp_tx_bytes", "tcp_rx_bytes"]].mean()
    assert (measured / ALEXNET_BYTES).stack().between(1, 1.005).all()
    assert (steps["staleness"] == 0).all()


def test_transfers_name_their_shard_and_lie_within_their_times(alexnet: Finished) -> None:
    transfers = served(alexnet, "transfers")
    assert set(transfers["op"]) == {"push", "pull"}
    assert set(transfers["peer"]) == {"shard 0", "shard 1"}
    assert (transfers["t_done_ns"] >= transfers["t_launch_ns"]).all()
    sums = transfers.groupby(["rank", "step", "op"])["payload_bytes"].sum()
    assert len(sums) == 2 * 5 * 2
    assert (sums == ALEXNET_BYTES).all()


def test_peers_are_the_shards(alexnet: Finished) -> None:
    peers = served(alexnet, "peers")
    assert set(peers["peer"]) == {"shard 0", "shard 1"}
    assert peers["peer_rank"].isna().all()
    by_shard = peers.groupby("peer")["tx_bytes"].sum()
    assert by_shard.max() / by_shard.min() < 1.01


def test_the_report_has_each_shard_and_the_staleness_and_names_no_shard_of_equal_load(
    alexnet: Finished, said: dict[str, Any]
) -> None:
    (cell,) = [cell for cell in said["cells"] if cell["strategy"] == "ps"]
    assert (cell["servers"], cell["consistency"]) == (2, "sync")
    assert abs(cell["tcp_vs_predicted"]) < 0.005
    (run,) = said["runs"]
    received = [shard["received_bytes"] for shard in run["shards"]]
    assert sum(received) == 2 * 4 * ALEXNET_BYTES  # of the measured steps
    assert received == sorted(received, reverse=True)
    assert received[0] / received[1] < 1.001
    assert [(row["staleness"], row["share"]) for row in run["staleness"]] == [(0, 1.0)]
    assert "hottest" not in alexnet.stdout


def test_both_strategies_take_turns_and_are_compared(said: dict[str, Any]) -> None:
    assert [cell["strategy"] for cell in said["cells"]] == ["ddp", "ps"]
    (compared,) = said["strategy_comparisons"]
    assert (compared["strategy"], compared["over"], compared["pairs"]) == ("ps", "ddp", 4)
    assert compared["bytes_ratio"] > 1.5  # two workers send 2S under ddp, they and their servers 4S
    assert compared["step_ratio"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("consistency", ["async", "ssp"])
def test_workers_that_go_their_own_ways_all_make_their_steps(joined: Commands, consistency: str) -> None:
    # The model reads a file by a path that is relative to where the command runs, on every worker.
    model = ("--model", "tests.own_models:net_of_a_file", *SMALL[2:])
    lead = ("--staleness", 1) if consistency == "ssp" else ()
    done = joined("launch/ps.py", *model, "--workers", 2, "--consistency", consistency, *lead, "--steps", 20)
    assert done.status == 0, done.stderr
    steps = done.table("steps")
    assert (steps.groupby("rank")["step"].count() == 25).all()
    assert (steps["staleness"] >= 0).all()
    (cell,) = report(done.run.path)["cells"]
    assert cell["samples_per_s"] > 0
    assert cell["consistency"] == consistency


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "placement"), [(1, "dedicated"), (4, "colocated")])
def test_alexnet_s_bytes_are_as_predicted_for_any_servers(
    joined: Commands, servers: int, placement: str
) -> None:
    done = joined(
        *("launch/ps.py", "--model", "alexnet", "--workers", 2, "--image-size", 64, "--batch-size", 2),
        *("--num-classes", 1000, "--steps", 3, "--warmup-steps", 1),
        *("--servers", servers, "--placement", placement),
    )
    assert done.status == 0, done.stderr
    said = report(done.run.path)
    (cell,) = said["cells"]
    assert abs(cell["tcp_vs_predicted"]) < 0.005
    (run,) = said["runs"]
    assert sum(shard["received_bytes"] for shard in run["shards"]) == 2 * 3 * ALEXNET_BYTES  # measured
    assert len(run["shards"]) == servers
    assert "hottest" not in done.stdout


@pytest.mark.slow
def test_ssp_lets_no_worker_run_further_ahead_than_asked(joined: Commands) -> None:
    staleness, workers, steps = 2, 3, 25
    done = joined(
        *("launch/ps.py", "--model", "benchmarks.parameter_server.paced_net:UnevenNet"),
        *("--workers", workers, "--image-size", 16, "--batch-size", 2, "--evaluate", "never"),
        *("--consistency", "ssp", "--staleness", staleness, "--steps", steps, "--warmup-steps", 0),
    )
    assert done.status == 0, done.stderr
    made, updates = done.table("steps"), done.table("updates")
    assert len(made) == workers * steps
    # Whoever has ended step n was let into it by all others having pushed for the steps before n - staleness.
    ended_ns = made["t_start_ns"] + made["wall_s"] * 1e9
    begun = [[(made["t_start_ns"][made["rank"] == rank] <= at).sum() for rank in range(workers)]
             for at in ended_ns]  # fmt: skip
    leads = [step - min(others) for step, others in zip(made["step"], begun, strict=True)]
    assert max(leads) <= staleness
    # The same by the shards' own clock, chunk by chunk.
    leads = []
    for _, pushes in updates.sort_values("t_arrive_ns").groupby(["shard", "bucket"]):
        pushed = dict.fromkeys(range(workers), 0)
        for rank in pushes["rank"]:
            leads.append(pushed[rank] - min(pushed.values()))
            pushed[rank] += 1
        assert set(pushed.values()) == {steps}
    assert max(leads) == staleness


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--servers", 0), ("--servers 0", "at least 1")),
        (("--servers", 1_000_000), ("--servers 1000000", "the elements that there are to own")),
        (("--staleness", -1), ("--staleness -1", "at least 0")),
        (("--staleness", 1), ("--staleness 1", "--consistency ssp")),
        (("--backup-workers", 2, "--workers", 2), ("--backup-workers 2", "below --workers 2")),
        (("--bucket-mb", 2), ("--bucket-mb: no option of this command", "`distsqz ddp`")),
        (("--backup-workers", 1, "--consistency", "async"), ("--backup-workers 1", "--consistency sync")),
    ],
)
def test_what_makes_no_sense_is_refused(
    joined: Commands, options: tuple[object, ...], told: tuple[str, ...]
) -> None:
    refused = joined.here("launch/ps.py", *SMALL, *options)
    assert (refused.status, refused.stdout) == (2, "")
    for part in told:
        assert part in refused.error_line
    assert not refused.runs.is_dir() or list(refused.runs.iterdir()) == []


def test_more_servers_than_the_cluster_has_cores_are_refused(joined: Commands) -> None:
    refused = joined("launch/ps.py", *SMALL, "--workers", 1, "--servers", 50)
    assert refused.status == 2, refused.stderr
    assert "--servers 50" in refused.error_line
    assert list(refused.runs.iterdir()) == []
