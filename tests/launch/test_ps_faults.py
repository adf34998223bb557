"""Workers and servers that are killed in the middle of a run: what is promised then happens, and is told."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import SMALL, Commands, processes_of, wait_until

from distsqz import open_run
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, FAILED
from tests.own_models import ENDS_AT_STEP, ENDS_ON_RANK, MARKER

pytestmark = pytest.mark.ray

DIES_ONCE = ("--model", "tests.own_models:DiesOnceNet", *SMALL[2:])
STEPS = ("--workers", 2, "--warmup-steps", 0, "--evaluate", "never")


def kill_one(home: Path, runs: Path, kind: str, at_step: int) -> None:
    """Kills an actor of this kind of the Ray in a directory, once training has come so far."""

    def far_enough() -> bool:
        tables = [open_run(path.parent).table("steps") for path in runs.glob("*/run.json")]
        return any(len(table) and max(table["step"].to_pylist()) >= at_step for table in tables)

    assert wait_until(far_enough, timeout_s=90)
    found = [pid for pid, command in processes_of(home).items() if command.startswith(f"ray::{kind}")]
    os.kill(min(found), signal.SIGKILL)


def final_parameters(run: Run) -> dict[str, torch.Tensor]:
    newest = max((run.path / "checkpoints").glob("*.pt"))
    content = torch.load(io.BytesIO(newest.read_bytes()), weights_only=True)
    parameters: dict[str, torch.Tensor] = content["model"]
    return parameters


@pytest.fixture
def never_died(shared_home: Path) -> Iterator[None]:
    """The model that dies once has not yet."""
    yield
    (shared_home / MARKER).unlink(missing_ok=True)


@pytest.mark.parametrize("script", ["launch/ddp.py", pytest.param("launch/ps.py", marks=pytest.mark.slow)])
def test_all_go_back_to_the_last_checkpoint_when_a_worker_of_a_sync_run_is_killed(
    joined: Commands,
    never_died: None,  # noqa: ARG001 - for what it does
    script: str,
) -> None:
    done = joined(script, *DIES_ONCE, *STEPS, "--steps", 5, "--checkpoint-every", 2)
    assert done.status == 0, done.stderr
    ((told,),) = [cell["restarted"] for cell in done.run.cells]
    assert "all start again from the checkpoint of step 2" in told["text"]
    steps = done.table("steps")
    for rank in range(2):
        again = steps[(steps["rank"] == rank) & (steps["attempt"] == 1)]
        assert again["step"].tolist() == [2, 3, 4]
    assert set(steps[steps["attempt"] == 0]["step"]) >= {0, 1}
    assert max((done.run.path / "checkpoints").iterdir()).name.endswith("step-00000005.pt")


def test_a_killed_worker_of_an_async_run_is_replaced(
    joined: Commands,
    never_died: None,  # noqa: ARG001 - for what it does
) -> None:
    done = joined("launch/ps.py", *DIES_ONCE, *STEPS, "--steps", 6, "--consistency", "async")
    assert done.status == 0, done.stderr
    ((told,),) = [cell["restarted"] for cell in done.run.cells]
    assert told["rank"] == ENDS_ON_RANK
    assert "replaced on" in told["text"]
    steps = done.table("steps")
    by_rank = {rank: steps[steps["rank"] == rank] for rank in range(2)}
    assert set(by_rank[0]["attempt"]) == {0}
    assert 1 in set(by_rank[ENDS_ON_RANK]["attempt"])
    for rows in by_rank.values():
        assert rows["step"].max() == 5
        assert set(rows["step"]) >= set(range(ENDS_AT_STEP, 6))


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [("launch/ps.py",), ("launch/ddp.py",), ("launch/train.py", "--strategy", "reduction_tree")],
    ids=["ps", "ddp", "reduction_tree"],
)
def test_a_sync_run_goes_back_to_its_checkpoint_and_ends_as_if_nothing_had_happened(
    joined: Commands,
    tmp_path: Path,
    never_died: None,  # noqa: ARG001 - for what it does
    script: tuple[str, ...],
) -> None:
    command = (*script, *DIES_ONCE, *STEPS, "--steps", 8, "--checkpoint-every", 2)
    done = joined(*command)
    assert done.status == 0, done.stderr
    assert done.run.meta["status"] == COMPLETE
    ((told,),) = [cell["restarted"] for cell in done.run.cells]
    assert f"rank {ENDS_ON_RANK}" in told["text"]
    assert "all start again from the checkpoint of step 2, 1 steps are repeated" in told["text"]
    assert told["text"] in done.stderr
    assert set(done.table("steps")["attempt"]) == {0, 1}
    ended = final_parameters(done.run)

    undisturbed = Commands(tmp_path / "again", joined.ray)(*command)  # it has died before
    assert undisturbed.status == 0, undisturbed.stderr
    assert "restarted" not in undisturbed.run.cells[0]
    for name, value in final_parameters(undisturbed.run).items():
        assert torch.equal(ended[name], value)


@pytest.mark.slow
def test_a_server_that_dies_sends_all_back_to_the_checkpoint(joined: Commands, shared_home: Path) -> None:
    process = joined.start("launch/ps.py", *SMALL, *STEPS, "--steps", 3000, "--checkpoint-every", 50)
    kill_one(shared_home, joined.runs, "ServerActor", at_step=75)
    done = joined.finish(process)
    assert done.status == 0, done.stderr
    ((told,),) = [cell["restarted"] for cell in done.run.cells]
    assert "all start again from the checkpoint of step" in told["text"]
    assert set(done.table("steps")["attempt"]) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("consistency", [("async",), ("ssp", "--staleness", 2)], ids=["async", "ssp"])
def test_a_worker_that_dies_is_replaced_and_the_others_go_on(
    joined: Commands, shared_home: Path, consistency: tuple[object, ...]
) -> None:
    process = joined.start("launch/ps.py", *SMALL, *STEPS, "--steps", 3000, "--consistency", *consistency)
    kill_one(shared_home, joined.runs, "WorkerActor", at_step=100)
    done = joined.finish(process)
    assert done.status == 0, done.stderr
    ((told,),) = [cell["restarted"] for cell in done.run.cells]
    assert "was lost" in told["text"]
    assert "replaced on" in told["text"]
    steps = done.table("steps")
    lost = told["rank"]
    assert set(steps[steps["rank"] != lost]["attempt"]) == {0}
    assert set(steps[steps["rank"] == lost]["attempt"]) == {0, 1}
    assert (steps.groupby("rank")["step"].max() == 2999).all()


@pytest.mark.slow
def test_a_run_without_restarts_left_fails_and_says_who_died(joined: Commands, shared_home: Path) -> None:
    process = joined.start("launch/ps.py", *SMALL, *STEPS, "--steps", 100_000, "--restarts", 0)
    kill_one(shared_home, joined.runs, "WorkerActor", at_step=100)
    failed = joined.finish(process)
    assert (failed.status, failed.stdout) == (1, "")
    assert failed.run.meta["status"] == FAILED
    assert "the worker died" in failed.error_line
