"""What becomes of a Ray of our own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distsqz.cluster import ray_cluster as cluster
from distsqz.errors import InvalidValue

SHUT_DOWN_BESIDE_A_CHILD_THAT_HANGS = """
import subprocess
from distsqz.cluster import ray_cluster as cluster

child = subprocess.Popen(["sleep", "60"])
cluster.EXIT_TIMEOUT_S = 0.1
cluster._shut_down(embedded={embedded})
child.terminate()  # comes too late for one that was killed before
print(child.wait())
"""


def test_what_outlives_our_ray_is_ended_and_what_is_beside_a_joined_one_is_not() -> None:
    for embedded, status in ((True, -signal.SIGKILL), (False, -signal.SIGTERM)):
        done = subprocess.run(
            [sys.executable, "-c", SHUT_DOWN_BESIDE_A_CHILD_THAT_HANGS.format(embedded=embedded)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == str(int(status))


@pytest.mark.parametrize(
    ("head", "address", "waits"),
    [
        ("198.51.100.1", "198.51.100.1:6379", True),
        ("fd00:0:0::1", "[fd00::1]:6379", True),
        ("fd00::1", "[fd00::2]:6379", False),
        ("198.51.100.1", "198.51.100.2:6379", False),
    ],
)
def test_nodes_are_waited_for_on_the_head_that_launched_them(
    head: str,
    address: str,
    waits: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launched = {"provider": {"head_ip": head}, "available_node_types": {"local": {"min_workers": 1}}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(launched))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster, "JOIN_TIMEOUT_S", 0)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True}])
    cluster._wait_for_nodes(address)
    assert ("going on with 1 of 2" in capsys.readouterr().err) is waits


def test_gpus_without_cpus_beside_them_are_no_places_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 4.0, "GPU": 4.0}},
    ]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    cluster._check_gpus_are_beside_cpus(1)
    with pytest.raises(InvalidValue, match="the cluster has 1 such pairs"):
        cluster._check_gpus_are_beside_cpus(2)
