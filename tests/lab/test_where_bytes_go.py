"""Every byte counts once, where it belongs: on slow links, on shared hosts, on machines that share a name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from labs import ROOT, lab_up

from distsqz.lab import lab
from distsqz.lab.ray_nodes import start_ray

pytestmark = pytest.mark.slow

PAYLOAD = 4_225_832
WORKERS_A_HOST = 2


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Two hosts of one name at 20 Mbit/s, two workers on each, under all-reduce and a parameter server."""
    runs = tmp_path_factory.mktemp("bytes") / "runs"
    with lab_up(2, "20mbit") as here:
        made = lab.find(here.name)
        for host in made.hosts:
            here.on(host.name, "hostname", "clone")
        variables = start_ray(made, cpus_per_host=WORKERS_A_HOST)
        command = [
            *("env", *(f"{name}={value}" for name, value in variables.items())),
            *(
                sys.executable,
                "launch/compare.py",
                "--models",
                "benchmarks.link.four_megabytes:FourMegabytes",
                "--runs",
                str(runs),
            ),
            *("--workers", "4", "--image-size", "64", "--batch-size", "4", "--num-classes", "10"),
            *("--threads", "1", "--steps", "2", "--warmup-steps", "1", "--block-steps", "1"),
            *("--no-baseline", "--format", "json"),
        ]
        done = subprocess.run(
            made.inside(made.hosts[0], command),
            cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        yield found


def cell_of(report: dict[str, Any], strategy: str) -> dict[str, Any]:
    (cell,) = [cell for cell in report["cells"] if cell["strategy"] == strategy]
    return cell


def test_half_of_a_ring_and_half_of_a_server_s_traffic_stay_on_two_hosts_of_two_workers(
    report: dict[str, Any],
) -> None:
    ring, server = cell_of(report, "ddp"), cell_of(report, "ps")
    # 2 (n - 1) / n of the payload for each of 4 ranks, over 2 of the ring's 4 edges
    assert ring["predicted_tx_bytes"] == ring["predicted_local_tx_bytes"] == 2 * 3 / 4 * PAYLOAD / 2
    assert server["predicted_tx_bytes"] == pytest.approx(PAYLOAD / 2, rel=0.01)  # padded chunks
    assert server["predicted_tx_bytes"] + server["predicted_local_tx_bytes"] == PAYLOAD


@pytest.mark.parametrize("strategy", ["ddp", "ps"])
def test_tcp_carries_what_is_predicted_and_the_wire_its_frames(report: dict[str, Any], strategy: str) -> None:
    cell = cell_of(report, strategy)
    assert 0 <= cell["tcp_vs_predicted"] < 1e-3
    assert cell["tcp_local_tx_bytes"] == pytest.approx(cell["predicted_local_tx_bytes"], rel=1e-3)
    assert 1.03 < cell["wire_vs_tcp"] < 1.12


def test_a_parameter_server_sends_four_thirds_of_a_ring_s_bytes(report: dict[str, Any]) -> None:
    (comparison,) = report["strategy_comparisons"]
    assert comparison["bytes_source"] == "tcp"
    assert comparison["bytes_ratio"] == pytest.approx(4 / 3, rel=5e-3)


def test_hosts_of_one_name_are_told_apart(report: dict[str, Any]) -> None:
    hosts = cell_of(report, "ddp")["hosts"]
    assert sorted(map(hosts.count, dict.fromkeys(hosts))) == [WORKERS_A_HOST, WORKERS_A_HOST]
    assert all(host.startswith("clone@") for host in hosts)
    links = report["runs"][0]["links"]
    assert {(link["host"], link["peer_host"]) for link in links} == {
        (one, other) for one in hosts for other in hosts if one != other
    }


def test_no_view_contradicts_another(report: dict[str, Any]) -> None:
    assert report["runs"][0]["breaches"] == []
    assert report["runs"][0]["warnings"] == []
