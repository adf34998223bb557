"""Links carry what they are shaped to, count every byte of it, and can be cut."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from labs import Commands, reaches, stream

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


ATTEMPTS = 8


def assert_carries(payload_bits_per_s: float, within: float, measure: Callable[[], list[float]]) -> None:
    """Whether links carry a rate, to within a share of it, in one of several measurements.

    A busy machine delays who sends and who reads, which disturbs some of them.
    """
    seen = []
    for _ in range(ATTEMPTS):
        seen.append(measure())
        if seen[-1] == pytest.approx([payload_bits_per_s] * len(seen[-1]), rel=within):
            return
    pytest.fail(f"{seen} instead of {payload_bits_per_s:.4g}")


def counters(here: Commands, host: str) -> WireCounters:
    pids = here.pids()
    meter = WireMeter(host, namespace(pids["switch"]), namespace(pids[host]))
    try:
        return meter.read()
    finally:
        meter.close()


def quiet_counters(here: Commands, host: str) -> WireCounters:
    """The counters once nothing has passed for a tenth of a second: queues are empty, or the link is cut."""
    earlier = counters(here, host)
    for _ in range(100):
        time.sleep(0.1)
        now = counters(here, host)
        if now == earlier:
            return now
        earlier = now
    pytest.fail(f"something passes {host} all the time")


def test_a_stream_gets_what_its_rate_leaves_for_payload(pair: Commands) -> None:
    def measure() -> list[float]:
        with stream(pair, "h1", "h2", 0.8) as ended:
            return [ended().goodput_bits_per_s(0.2, 0.8)]

    assert_carries(FRAME_SHARE * 100e6, 0.03, measure)


def test_both_ways_are_shaped_alone(pair: Commands) -> None:
    def measure() -> list[float]:
        with stream(pair, "h1", "h2", 0.8) as one, stream(pair, "h2", "h1", 0.8) as other:
            return [each().goodput_bits_per_s(0.2, 0.6) for each in (one, other)]

    assert_carries(FRAME_SHARE * 100e6, 0.1, measure)


def test_wire_counters_see_every_frame_with_its_headers(pair: Commands) -> None:
    before = {host: counters(pair, host) for host in ("h1", "h2")}
    with stream(pair, "h1", "h2", 0.5) as ended:
        payload = ended().bytes
    quiet_counters(pair, "h1")
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

    def measure() -> list[float]:
        here.set_rate(parse_rate("100mbit"), "h2")
        with stream(restored, "h1", "h2", 1.5) as ended:
            here.set_rate(parse_rate("50mbit"), "h2")
            changed = time.monotonic()
            received = ended()
        return [received.goodput_bits_per_s(changed - received.pieces[0][0] + 0.3, 1.5)]

    assert_carries(FRAME_SHARE * 50e6, 0.05, measure)
    assert {name: row["rate"] for name, row in restored.status().items()} == {"h1": "100mbit", "h2": "50mbit"}


def test_a_rate_without_host_is_that_of_all(restored: Commands) -> None:
    restored.do("rate", "2.5gbit")
    assert {row["rate"] for row in restored.status().values()} == {"2.5gbit"}


def test_a_cut_link_carries_nothing_until_it_is_healed(restored: Commands) -> None:
    assert reaches(restored, "h1", "h2")
    restored.do("cut", "h2")
    assert {name: row["link"] for name, row in restored.status().items()} == {"h1": "up", "h2": "cut"}
    assert not reaches(restored, "h1", "h2", timeout_s=2)
    restored.do("heal", "h2")
    assert {row["link"] for row in restored.status().values()} == {"up"}
    assert reaches(restored, "h1", "h2")


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
        assert refused.stderr == "error: host h1: has lost its link; `distsqz lab up` brings it back\n"
    assert restored.status()["h2"]["rate"] == "100mbit"
    restored.up(2, "100mbit")
    assert reaches(restored, "h1", "h2")


def test_a_stream_outlives_a_short_cut(restored: Commands) -> None:
    here = lab.find(restored.name)
    with stream(restored, "h1", "h2", 1.5) as ended:
        here.set_cut("h1", True)
        cut = quiet_counters(restored, "h1")
        time.sleep(0.3)
        assert counters(restored, "h1") == cut
        healing = time.monotonic()
        here.set_cut("h1", False)
        received = ended()
    assert any(at > healing for at, _ in received.pieces)


def test_the_paths_of_a_ring_carry_what_their_links_are_shaped_to(pair: Commands) -> None:
    hosts = pair.state.hosts
    meeting = threading.Barrier(len(hosts))
    handed_in: dict[int, object] = {}
    records: list[LinkRecord] = []

    def measure_from(rank: int) -> list[LinkRecord]:
        """In a thread that stands in the host's network from then on."""

        def exchange(value: object) -> list[object]:
            handed_in[rank] = value
            meeting.wait(60)
            gathered = [handed_in[each] for each in range(len(hosts))]
            meeting.wait(60)
            return gathered

        with _opened(namespace(pair.pids()[hosts[rank].name])) as network:
            _enter(network)
        return measure_ring(rank, [host.name for host in hosts], hosts[rank].address, 0.4, exchange)

    def measure() -> list[float]:
        with ThreadPoolExecutor(len(hosts)) as ranks:
            records[:] = [record for each in ranks.map(measure_from, range(len(hosts))) for record in each]
        return [8 * record.goodput_bytes_per_s for record in records]

    assert_carries(FRAME_SHARE * 100e6, 0.05, measure)
    assert {(record.host, record.peer_host) for record in records} == {("h1", "h2"), ("h2", "h1")}
    assert all(1 <= record.rtt_us < 1_000_000 for record in records)
