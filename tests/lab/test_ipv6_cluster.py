"""A cluster whose hosts have IPv6 addresses alone: workers, servers, links, counters and sender use them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Commands, lab_up

from distsqz import open_run
from distsqz.lab import links
from distsqz.lab.state import Host
from distsqz.runs.listing import newest_run
from distsqz.runs.reader import Run
from tests.ipv6 import needs_ipv6

pytestmark = [pytest.mark.ray, pytest.mark.slow, needs_ipv6]

HEAD = "[fd00::1]:6379"
RAY = Path(sys.executable).parent / "ray"
LEAN = ("--object-store-memory=100000000", "--disable-usage-stats")
ALLOW_IPV6 = "cd /proc/sys/net/ipv6/conf; for each in all lo eth0; do echo 0 > $each/disable_ipv6; done"
TRAIN = (
    *("--model", "tests.own_models:SmallNet", "--image-size", 16, "--batch-size", 4, "--workers", 2),
    *("--steps", 4, "--warmup-steps", 1),
)
PAYLOAD_BYTES = 516_896


def address_of(host: Host) -> str:
    return f"fd00::{host.name.removeprefix('h')}"


def give_ipv6_alone(here: Commands, host: Host) -> None:
    """Replaces a host's IPv4 address; the new one is used at once, without asking whether it is taken."""
    here.on(host.name, "sh", "-c", f"{ALLOW_IPV6}; echo 0 > eth0/accept_dad")
    with links.netlink(here.pids()[host.name]) as route:
        (index,) = route.link_lookup(ifname="eth0")
        route.flush_addr(index=index, family=socket.AF_INET)
        route.addr("add", index=index, address=address_of(host), prefixlen=64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Commands]:
    with lab_up(2) as here:
        for host in here.state.hosts:
            give_ipv6_alone(here, host)
            as_what = ("--head", "--port=6379", "--include-dashboard=false")
            if host.name != "h1":
                as_what = (f"--address={HEAD}",)
            own = f"--node-ip-address={address_of(host)}"
            here.on(host.name, "env", "RAY_AUTH_MODE=disabled", RAY, "start", *as_what, own, *LEAN)
        yield here


def run(cluster: Commands, runs: Path, script: str, *options: object) -> Run:
    python = ("env", "RAY_AUTH_MODE=disabled", sys.executable)
    cluster.on("h1", *python, f"launch/{script}.py", "--address", HEAD, "--runs", runs, *options)
    return open_run(newest_run(runs))


@pytest.mark.parametrize("script", ["ddp", "ps"])
def test_training_measures_links_and_counts_bytes_over_ipv6(
    cluster: Commands, script: str, tmp_path: Path
) -> None:
    done = run(cluster, tmp_path, script, *TRAIN)
    assert sorted(done.cells[0]["hosts"]) == ["h1", "h2"]
    assert done.table("links").num_rows == 2
    steps = done.table("steps").to_pandas()
    # All-reduce of two sends the payload once; of two shards, one is on the other host.
    predicted = PAYLOAD_BYTES / (1 if script == "ddp" else 2)
    assert steps["tcp_tx_bytes"].mean() == pytest.approx(predicted, rel=0.02)
    # The interface that holds the node's address carried them; some bytes leave between two steps.
    sent = steps.groupby("rank")[["nic_tx_bytes", "tcp_tx_bytes"]].sum()
    assert (sent["nic_tx_bytes"] > 0.8 * sent["tcp_tx_bytes"]).all()


def test_a_file_is_sent_over_ipv6(cluster: Commands, tmp_path: Path) -> None:
    done = run(cluster, tmp_path, "deploy", "squeezenet", "--clients", 1)
    (row,) = done.table("shipments").to_pylist()
    assert row["host"] == "h2"
    assert row["tcp_rx_bytes"] >= row["file_bytes"]
