"""Links carry what they are shaped to, count every byte of it, and can be cut."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from labs import Commands, finish, stream

from distsqz.lab import lab
from distsqz.lab.processes import namespace
from distsqz.lab.rate import parse_rate
from distsqz.metering.link import measure_ring
from distsqz.metering.schema import LinkRecord
from distsqz.metering.wire import WireCounters, WireMeter, _enter, _opened

FRAME_SHARE = 1448 / 1514
"""Of a full frame on the wire, what is payload of TCP with time stamps."""


@pytest.fixture
def restored(pair: Commands) -> Iterator[Commands]:
    """The shared pair, whose links are as they were again in the end."""
    yield pair
    pair.up(2, "100mbit")


def counters(here: Commands, host: str) -> WireCounters:
    pids = here.pids()
    meter = WireMeter(host, namespace(pids["switch"]), namespace(pids[host]))
    try:
        return meter.read()
    finally:
        meter.close()


def test_a_stream_gets_what_its_rate_leaves_for_payload(pair: Commands) -> None:
    with stream(pair, "h1", "h2", 0.8) as ended:
        goodput = ended().goodput_bits_per_s(0.2, 0.8)
    assert 0.90 * 100e6 < goodput < 0.97 * 100e6
    assert goodput == pytest.approx(FRAME_SHARE * 100e6, rel=0.03)


def test_both_ways_are_shaped_alone(pair: Commands) -> None:
    with stream(pair, "h1", "h2", 0.8) as one, stream(pair, "h2", "h1", 0.8) as other:
        assert one().goodput_bits_per_s(0.2, 0.6) > 0.85 * 100e6
        assert other().goodput_bits_per_s(0.2, 0.6) > 0.85 * 100e6


def test_wire_counters_see_every_frame_with_its_headers(pair: Commands) -> None:
    before = {host: counters(pair, host) for host in ("h1", "h2")}
    with stream(pair, "h1", "h2", 0.5) as ended:
        payload = ended().bytes
    time.sleep(0.1)
    sent, received = (counters(pair, host).since(before[host]) for host in ("h1", "h2"))
    assert 1.04 < sent.tx_bytes / payload < 1.06
    assert received.rx_bytes == pytest.approx(sent.tx_bytes, rel=0.01)
    assert received.tx_bytes == pytest.approx(sent.rx_bytes, rel=0.01)
    assert sent.tx_bytes / sent.tx_packets < 1515  # frames, not packets of 64 KiB
    assert sent.rx_bytes < 0.05 * sent.tx_bytes  # acknowledgements


def test_status_shows_the_wire_counters(pair: Commands) -> None:
    rows = pair.status()
    with stream(pair, "h2", "h1", 0.1) as ended:
        payload = ended().bytes
    after = pair.status()
    for host, column in (("h2", "wire_tx_bytes"), ("h1", "wire_rx_bytes")):
        assert payload < after[host][column] - rows[host][column] < 1.1 * payload


def test_a_rate_changes_under_a_stream(restored: Commands) -> None:
    here = lab.find(restored.name)
    with stream(restored, "h1", "h2", 1.5) as ended:
        here.set_rate(parse_rate("50mbit"), "h2")
        changed = time.monotonic()
        received = ended()
    began = received.pieces[0][0]
    assert received.goodput_bits_per_s(changed - began + 0.3, 1.5) == pytest.approx(
        FRAME_SHARE * 50e6, rel=0.05
    )
    assert {name: row["rate"] for name, row in restored.status().items()} == {"h1": "100mbit", "h2": "50mbit"}


def test_a_rate_without_host_is_that_of_all(restored: Commands) -> None:
    restored.do("rate", "2.5gbit")
    assert {row["rate"] for row in restored.status().values()} == {"2.5gbit"}


def test_a_cut_link_carries_nothing_until_it_is_healed(restored: Commands) -> None:
    assert connects(restored)
    restored.do("cut", "h2")
    assert {name: row["link"] for name, row in restored.status().items()} == {"h1": "up", "h2": "cut"}
    assert not connects(restored)
    restored.do("heal", "h2")
    assert {row["link"] for row in restored.status().values()} == {"up"}
    assert connects(restored)


def test_a_link_whose_queue_was_replaced_is_unshaped_until_the_lab_is_mended(restored: Commands) -> None:
    restored.on("h1", "tc", "qdisc", "replace", "dev", "eth0", "root", "pfifo")
    (h1, h2) = json.loads(restored.do("status", "--format", "json"))
    assert (h1["link"], h1["rate"]) == ("unshaped", None)
    assert {h1[name] for name in h1 if name.startswith("wire_")} == {None}
    assert (h2["link"], h2["rate"]) == ("up", "100mbit")
    assert "unshaped" in restored.do("status")
    restored.up(2, "100mbit")
    assert {row["link"] for row in restored.status().values()} == {"up"}


def test_a_link_that_was_removed_is_missing_until_the_lab_is_mended(restored: Commands) -> None:
    restored.on("h1", "ip", "link", "delete", "eth0")
    row = restored.status()["h1"]
    assert (row["link"], row["rate"], row["wire_tx_bytes"]) == ("missing", None, None)
    for command in (("rate", "2mbit"), ("cut", "h1")):
        refused = restored(*command)
        assert refused.status == 2
        assert refused.stderr == "error: host h1: has lost its link; `launch/lab.py up` brings it back\n"
    assert restored.status()["h2"]["rate"] == "100mbit"
    restored.up(2, "100mbit")
    assert connects(restored)


def test_a_stream_outlives_a_short_cut(restored: Commands) -> None:
    here = lab.find(restored.name)
    with stream(restored, "h1", "h2", 1.5) as ended:
        here.set_cut("h1", True)
        cut = time.monotonic()
        time.sleep(0.5)
        healing = time.monotonic()
        here.set_cut("h1", False)
        received = ended()
    times = [at for at, _ in received.pieces]
    assert not [at for at in times if cut + 0.05 < at < healing]
    assert any(at > healing for at in times)


def test_the_paths_of_a_ring_carry_what_their_links_are_shaped_to(pair: Commands) -> None:
    hosts = pair.state.hosts
    meeting = threading.Barrier(len(hosts))
    handed_in: dict[int, object] = {}

    def measure(rank: int) -> list[LinkRecord]:
        """In a thread that stands in the host's network from then on."""

        def exchange(value: object) -> list[object]:
            handed_in[rank] = value
            meeting.wait(20)
            gathered = [handed_in[each] for each in range(len(hosts))]
            meeting.wait(20)
            return gathered

        with _opened(namespace(pair.pids()[hosts[rank].name])) as network:
            _enter(network)
        return measure_ring(rank, [host.name for host in hosts], hosts[rank].address, 0.4, exchange)

    with ThreadPoolExecutor(len(hosts)) as ranks:
        records = [record for found in ranks.map(measure, range(len(hosts))) for record in found]
    assert {(record.host, record.peer_host) for record in records} == {("h1", "h2"), ("h2", "h1")}
    for record in records:
        assert record.goodput_bytes_per_s == pytest.approx(FRAME_SHARE * 100e6 / 8, rel=0.05)
        assert 1 <= record.rtt_us < 20_000


def connects(here: Commands) -> bool:
    """Whether h1 gets a connection to a port of h2."""
    server = here.start_on("h2", sys.executable, "-c", SERVE)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    said = here.on("h1", sys.executable, "-c", CONNECT, port)
    accepted = finish(server).status == 0
    assert (said == "connected") == accepted, said
    return accepted


SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 0))
server.settimeout(1.7)
print(server.getsockname()[1], flush=True)
server.accept()
"""

CONNECT = """
import socket, sys
try:
    socket.create_connection(("h2", int(sys.argv[1])), 1.2).close()
    print("connected")
except OSError as error:
    print(error)
"""
