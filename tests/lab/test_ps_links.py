"""A parameter server whose worker loses its link: for some seconds, and for good."""

from __future__ import annotations

import datetime
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from labs import ROOT, lab_up, wait_until

from distsqz import open_run
from distsqz.lab import lab
from distsqz.lab.lab import Lab
from distsqz.lab.ray_nodes import start_ray
from distsqz.runs.listing import newest_run
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, FAILED
from distsqz.strategies.parameter_server.channel import SILENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

TELLING_S = 30
"""How long it may take, on a busy machine too, until the reason is told after a connection has broken."""


@dataclass(frozen=True)
class Cluster:
    """A lab with a Ray on its hosts."""

    lab: Lab
    variables: dict[str, str]

    def start(self, runs: Path, *options: object) -> subprocess.Popen[str]:
        """Starts training on two workers and a dedicated server."""
        command = ["env", *(f"{name}={value}" for name, value in self.variables.items()), sys.executable]
        command += ["launch/ps.py", "--model", "benchmarks.parameter_server.paced_net:EvenNet"]
        command += ["--workers", "2", "--placement", "dedicated", "--image-size", "16", "--batch-size", "2"]
        command += ["--warmup-steps", "0", "--evaluate", "never", "--runs", str(runs), *map(str, options)]
        return subprocess.Popen(
            self.lab.inside(self.lab.hosts[0], command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def worker_to_cut(self, runs: Path, after_step: int) -> tuple[int, str]:
        """Rank and host of a worker beside the driver, once training has come so far."""

        def far_enough() -> bool:
            tables = [open_run(path.parent).table("steps") for path in runs.glob("*/run.json")]
            return any(len(table) and max(table["step"].to_pylist()) >= after_step for table in tables)

        assert wait_until(far_enough, timeout_s=90)
        (cell,) = open_run(newest_run(runs)).cells
        return next((rank, host) for rank, host in enumerate(cell["hosts"]) if host != "h1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three hosts: a driver that trains or serves too, and two others."""
    with lab_up(3) as here:
        made = lab.find(here.name)
        yield Cluster(made, start_ray(made))


def last_parameters(run: Run) -> dict[str, torch.Tensor]:
    newest = max((run.path / "checkpoints").glob("*.pt"))
    content = torch.load(io.BytesIO(newest.read_bytes()), weights_only=True)
    parameters: dict[str, torch.Tensor] = content["model"]
    return parameters


def test_a_link_that_is_cut_for_five_seconds_costs_these_seconds_and_nothing_else(
    cluster: Cluster, tmp_path: Path
) -> None:
    options = ("--steps", 150, "--checkpoint-every", 150)
    training = cluster.start(tmp_path / "cut", *options)
    try:
        _, host = cluster.worker_to_cut(tmp_path / "cut", after_step=10)
        cluster.lab.set_cut(host, cut=True)
        time.sleep(5)
        cluster.lab.set_cut(host, cut=False)
        _, said = training.communicate(timeout=90)
    finally:
        cluster.lab.set_cut(host, cut=False)
        training.kill()
    assert training.returncode == 0, said
    run = open_run(newest_run(tmp_path / "cut"))
    assert run.meta["status"] == COMPLETE
    assert "restarted" not in run.cells[0]
    steps = run.table("steps").to_pandas()
    assert (steps.groupby("rank")["step"].nunique() == 150).all()
    # TCP tries again after 6.2, 12.6, 25.4 s: where the cable is plugged in late, some seconds are added.
    assert 4 < steps["wall_s"].max() < SILENCE_S + TELLING_S

    undisturbed = cluster.start(tmp_path / "whole", *options)
    _, said = undisturbed.communicate(timeout=90)
    assert undisturbed.returncode == 0, said
    ended = last_parameters(run)
    for name, value in last_parameters(open_run(newest_run(tmp_path / "whole"))).items():
        assert torch.equal(ended[name], value)


@pytest.mark.parametrize("consistency", ["sync", "async", "ssp"])
def test_a_link_that_is_cut_for_good_ends_the_run_in_time_and_names_who_is_lost(
    consistency: str, cluster: Cluster, tmp_path: Path
) -> None:
    options = ("--consistency", consistency, "--restarts", 0)
    training = cluster.start(tmp_path, "--steps", 100_000, *options)
    try:
        rank, host = cluster.worker_to_cut(tmp_path, after_step=10)
        cluster.lab.set_cut(host, cut=True)
        cut_at = time.time()
        _, said = training.communicate(timeout=120)
    finally:
        cluster.lab.set_cut(host, cut=False)
        training.kill()
    assert training.returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert f"host {host}, rank {rank}" in line
    run = open_run(newest_run(tmp_path))
    assert run.meta["status"] == FAILED
    ended_at = datetime.datetime.fromisoformat(run.meta["ended_at"]).timestamp()
    assert ended_at - cut_at < SILENCE_S + TELLING_S
