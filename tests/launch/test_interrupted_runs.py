"""Commands stopped from outside in the middle of training: what was measured stays, nothing runs on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMALL, Commands, processes_of, report, wait_until

from distsqz import open_run
from distsqz.runs.writer import INTERRUPTED, RUNNING

pytestmark = pytest.mark.ray

ENDLESS = (*SMALL, "--steps", 1_000_000, "--warmup-steps", 0, "--block-steps", 2)
"""Short blocks: of a parameter server's steps, the report counts those of finished blocks."""


def wait_for_steps(runs: Path) -> None:
    """Until a run has steps on disk, and their transfers, which are written after them."""

    def measured() -> bool:
        return any(open_run(path.parent).table("transfers").num_rows for path in runs.glob("*/run.json"))

    assert wait_until(measured, timeout_s=120)


def agents_of(home: Path) -> set[int]:
    """Ray's agents, and a worker that was only just starting: for a minute they try to reach what is gone."""
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return {
        process
        for process, command in processes_of(home).items()
        if command.startswith(agents) or "default_worker.py" in command
    }


def interrupt_group(process: int) -> None:
    """As Ctrl-C in a terminal does."""
    os.killpg(process, signal.SIGINT)


def terminate(process: int) -> None:
    """As a scheduler does, to the driver alone."""
    os.kill(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("command", "stop"),
    [
        ("ddp", interrupt_group),
        pytest.param("ps", interrupt_group, marks=pytest.mark.slow),
        pytest.param("ddp", terminate, marks=pytest.mark.slow),
        pytest.param("ps", terminate, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_keeps_what_it_measured(
    embedded: Commands, command: str, stop: Callable[[int], None]
) -> None:
    driver = embedded.start(f"launch/{command}.py", *ENDLESS)
    wait_for_steps(embedded.runs)
    stop(driver.pid)
    stopped = embedded.finish(driver)
    assert (stopped.status, stopped.stdout) == (130, ""), stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in stopped.stderr
    assert stopped.run.meta["status"] == INTERRUPTED
    assert stopped.run.meta["ended_at"] is not None
    said = report(stopped.run.path)
    assert said["runs"][0]["status"] == INTERRUPTED
    assert 0 < said["cells"][0]["steps"] <= stopped.table("steps")["step"].max() + 1


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_worker_on_a_ray_that_it_joined(
    joined: Commands, shared_home: Path
) -> None:
    driver = joined.start("launch/ddp.py", *ENDLESS)
    wait_for_steps(joined.runs)
    interrupt_group(driver.pid)
    stopped = joined.finish(driver)
    assert (stopped.status, stopped.stdout) == (130, ""), stopped.stderr

    def workers_left() -> list[str]:
        return [each for each in processes_of(shared_home).values() if each.startswith("ray::Worker")]

    assert wait_until(lambda: not workers_left(), timeout_s=10), workers_left()


@pytest.mark.slow
def test_a_killed_driver_leaves_a_readable_run_and_takes_its_ray_with_it(embedded: Commands) -> None:
    driver = embedded.start("launch/ddp.py", *ENDLESS)
    wait_for_steps(embedded.runs)
    driver.kill()
    home = Path(embedded.ray["RAY_TMPDIR"])
    assert wait_until(lambda: processes_of(home).keys() <= agents_of(home), timeout_s=20), processes_of(home)
    for agent in agents_of(home):
        os.kill(agent, signal.SIGKILL)
    killed = embedded.finish(driver)
    assert killed.run.meta["status"] == RUNNING
    assert len(killed.table("steps")) > 0
    assert len(killed.table("transfers")) > 0
    said = report(killed.run.path)
    assert said["runs"][0]["status"] == RUNNING
    assert said["cells"][0]["steps"] > 0
