"""Channels on a host that gives its few ports to several connections each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distsqz.strategies.parameter_server.channel import SHARD_END, WORKER_END, DuplexChannel, open_store

OWN_NETWORK = ("unshare", "--map-root-user", "--net")
CHANNELS = 12


@pytest.mark.skipif(
    subprocess.run([*OWN_NETWORK, "true"], capture_output=True, check=False).returncode != 0,
    reason="takes a network namespace",
)
def test_each_channel_has_its_own_connections_and_no_other_s() -> None:
    done = subprocess.run(
        [*OWN_NETWORK, sys.executable, __file__], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    # Both directions, each with both of its ends in the one process.
    assert json.loads(done.stdout) == [[4, 4]] * CHANNELS


def connect_all() -> list[list[int]]:
    """How many connections each end of each channel has, where there are 101 ports for some 70 sockets."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40100")
    kept = []
    for _ in range(CHANNELS):
        store, place = open_store("127.0.0.1")
        shard_ends: list[DuplexChannel] = []

        def accept(store: object = store, ends: list[DuplexChannel] = shard_ends) -> None:
            ends.append(DuplexChannel.connect(store, "a", SHARD_END, "127.0.0.1"))  # type: ignore[arg-type]

        shard = threading.Thread(target=accept)
        shard.start()
        worker_end = DuplexChannel.connect(place.connect(), "a", WORKER_END, "127.0.0.1")
        shard.join()
        kept.append((store, worker_end, shard_ends[0]))
    return [[len(worker.connections), len(shard.connections)] for _, worker, shard in kept]


if __name__ == "__main__":
    print(json.dumps(connect_all()))
