"""The README's way to real hosts, taken over SSH with the lab's: `ray up`, `ray exec`, `ray down`.

Slow to set up, so one cluster serves many tests here. By default it has two hosts, with two addresses taken
out of cluster.yaml; slow tests take the file as it stands, for four.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from labs import namespaces, namespaces_of, networks_of, traces

from distsqz import open_run
from distsqz.lab import lab, processes
from distsqz.lab.lab import Lab
from distsqz.lab.privileges import is_true_root, what_is_missing
from distsqz.lab.ssh import SSHD
from distsqz.lab.state import DEFAULT_NAME, directory_of
from distsqz.runs.listing import newest_run
from distsqz.theory.collectives import ring_tx_bytes

ROOT = Path(__file__).parents[2]
MISSING = what_is_missing() or (
    None if is_true_root() and SSHD.exists() and shutil.which("rsync") else "takes root, sshd and rsync"
)
pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
TRAIN = "cd distsqz && python launch/ddp.py --model squeezenet --image-size 64 --batch-size 4"
ALL_HOSTS = 4
"""Hosts of cluster.yaml as it stands, and of the default lab."""
SQUEEZENET_BYTES = 4_993_696
TIMEOUT_S = 10


def sh(*command: object, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository root, with this Python's programs first in PATH."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@dataclass(frozen=True)
class Cluster:
    """The default lab with a Ray on its hosts."""

    lab: Lab
    file: str
    """cluster.yaml, or a copy for fewer hosts beside it, as its file mounts are relative to it."""

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.lab.hosts]

    def on_head(self, command: str) -> subprocess.CompletedProcess[str]:
        return sh("ray", "exec", self.file, command)


def file_for(hosts: int) -> Path:
    """cluster.yaml for its first so many hosts."""
    file = ROOT / "cluster.yaml"
    if hosts == ALL_HOSTS:
        return file
    content, workers = file.read_text(), [f"198.18.0.{number}" for number in range(2, ALL_HOSTS + 1)]
    before, after = (f"worker_ips: [{', '.join(some)}]" for some in (workers, workers[: hosts - 1]))
    assert content.count(before) == 1
    copy = ROOT / f".cluster-of-{hosts}.yaml"
    copy.write_text(content.replace(before, after))
    return copy


@pytest.fixture(scope="module", params=[2, pytest.param(ALL_HOSTS, marks=pytest.mark.slow)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The default lab with a Ray on its hosts, as cluster.yaml starts it."""
    if directory_of(DEFAULT_NAME).exists():
        pytest.skip("the default lab is in use")
    file = file_for(request.param)
    try:
        made = sh(sys.executable, "launch/lab.py", "up", "--hosts", request.param)
        assert made.returncode == 0, made.stderr
        made_namespaces = namespaces_of(processes.holders(directory_of(DEFAULT_NAME)))
        begun = sh("ray", "up", "-y", file.name)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        yield Cluster(lab.find(DEFAULT_NAME), file.name)
        ended = sh("ray", "down", "-y", file.name)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    finally:
        removed = sh(sys.executable, "launch/lab.py", "down")
        if request.param != ALL_HOSTS:
            file.unlink()
    assert removed.returncode == 0
    assert traces(DEFAULT_NAME, made_namespaces) == []


of_four = pytest.mark.parametrize("cluster", [pytest.param(ALL_HOSTS, marks=pytest.mark.slow)], indirect=True)


def test_every_worker_trains_on_a_host_of_its_own_and_sends_what_theory_says(
    cluster: Cluster, tmp_path: Path
) -> None:
    hosts, workers = cluster.lab.hosts, len(cluster.names)
    done = cluster.on_head(f"{TRAIN} --workers {workers} --steps 3 --warmup-steps 1 --runs {tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr

    run = open_run(newest_run(tmp_path))
    (cell,) = run.cells
    assert sorted(cell["hosts"]) == cluster.names
    assert cell["emulated"]
    steps: pd.DataFrame = run.table("steps").to_pandas()
    assert sorted(set(zip(steps["rank"], steps["host"], strict=True))) == list(enumerate(cell["hosts"]))
    predicted = ring_tx_bytes(SQUEEZENET_BYTES, world_size=workers)
    assert (steps["tcp_tx_bytes"] / predicted - 1).between(0, 0.005).all()
    # What is still queued as a step ends goes over the wire after it, so single steps may have less.
    typical = steps[["rank", "wire_tx_bytes", "tcp_tx_bytes"]].groupby("rank").median()
    assert (typical["wire_tx_bytes"] / typical["tcp_tx_bytes"]).between(1.03, 1.08).all()

    peers: pd.DataFrame = run.table("peers").to_pandas()
    assert set(peers["peer"]) == {host.address for host in hosts}
    listed = cluster.on_head("ray list nodes --format json").stdout
    assert {host.address for host in hosts} <= set(re.findall(r'"node_ip": "([^"]+)"', listed))
    links: pd.DataFrame = run.table("links").to_pandas()
    assert sorted(links["host"]) == sorted(links["peer_host"]) == cluster.names


@of_four
def test_without_the_token_no_one_joins_or_submits(cluster: Cluster) -> None:
    head, stranger = cluster.lab.hosts[:2]
    alone = "env RAY_AUTH_MODE=disabled RAY_AUTH_TOKEN_PATH=/dev/null"
    join = f"import ray; ray.init(address='{head.address}:6379')"
    joined = sh(*cluster.lab.inside(stranger, [*alone.split(), sys.executable, "-c", join]))
    assert joined.returncode != 0
    assert "authenticat" in (joined.stdout + joined.stderr).lower()

    ray = str(Path(sys.executable).parent / "ray")
    submit = [ray, "job", "submit", "--address", f"http://{head.address}:8265", "--", "true"]
    submitted = sh(*cluster.lab.inside(stranger, [*alone.split(), *submit]))
    assert submitted.returncode != 0
    assert any(
        word in (submitted.stdout + submitted.stderr) for word in ("401", "nauthorized", "uthentication")
    )


def test_nothing_listens_beyond_the_lab(cluster: Cluster) -> None:
    """The hosts have no address but the lab's and loopback; none of its processes is on the machine's."""
    for host in cluster.lab.hosts:
        addresses = sh(*cluster.lab.inside(host, ["hostname", "-I"])).stdout.split()
        assert addresses == [host.address]
    networks = networks_of(directory_of(DEFAULT_NAME))
    assert networks
    assert namespaces("self")["net"] not in networks.values()


@of_four
def test_a_link_cut_during_training_ends_the_run_and_the_next_works_once_it_heals(
    cluster: Cluster, tmp_path: Path
) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    train = f"{TRAIN} --workers {ALL_HOSTS}"
    command = f"{train} --steps 2000 --collective-timeout-s {TIMEOUT_S} --runs {tmp_path}"
    training = subprocess.Popen(
        ["ray", "exec", cluster.file, command],
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for_steps(tmp_path, training)
        cluster.lab.set_cut("h3", cut=True)
        cut_at = time.time()
        said, _ = training.communicate(timeout=60)
    finally:
        cluster.lab.set_cut("h3", cut=False)
        training.kill()
    run = open_run(newest_run(tmp_path))
    assert run.meta["status"] == "failed"
    assert datetime.datetime.fromisoformat(run.meta["ended_at"]).timestamp() - cut_at < TIMEOUT_S
    assert run.meta["error"]["host"] == "h3", (run.meta["error"], said)
    rank = run.cells[0]["hosts"].index("h3")
    assert run.meta["error"]["rank"] == rank
    assert f"host h3, rank {rank}, step" in said
    assert run.table("steps").num_rows > 0

    again = tmp_path / "again"
    done = cluster.on_head(f"{train} --steps 1 --warmup-steps 0 --runs {again}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(open_run(newest_run(again)).cells[0]["hosts"]) == cluster.names


def wait_for_steps(runs: Path, training: subprocess.Popen[str]) -> None:
    """Returns once the first steps of a run are on disk."""
    end = time.monotonic() + 120
    while time.monotonic() < end and training.poll() is None:
        if list(runs.iterdir()) and open_run(newest_run(runs)).table("steps").num_rows:
            return
        time.sleep(0.5)
    raise AssertionError(f"no steps: {training.communicate(timeout=5)[0] if training.poll() else 'too slow'}")
