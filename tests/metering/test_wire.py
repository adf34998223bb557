"""Wire counters where there is no lab; with one, `tests/lab/test_links.py` holds them against a stream."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distsqz.metering.wire import (
    HOST_VARIABLE,
    LAB_VARIABLE,
    WireCounters,
    WireMeter,
    emulated_hosts,
    open_netlink,
)

linux = pytest.mark.skipif(not Path("/proc/self/ns/net").exists(), reason="takes Linux's namespaces")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def network() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_counters_since_an_earlier_reading() -> None:
    earlier = WireCounters(tx_bytes=1, tx_packets=2, rx_bytes=3, rx_packets=4)
    later = WireCounters(tx_bytes=101, tx_packets=22, rx_bytes=1003, rx_packets=44)
    assert later.since(earlier) == WireCounters(tx_bytes=100, tx_packets=20, rx_bytes=1000, rx_packets=40)


def test_outside_a_lab_there_is_no_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAB_VARIABLE, raising=False)
    assert WireMeter.of_this_host() is None
    assert emulated_hosts() is None


def test_the_rates_of_a_lab_are_those_of_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "lab.json"
    hosts = [
        {"name": "h1", "address": "198.18.0.1", "rate_bits_per_s": 10**9},
        {"name": "h2", "address": "198.18.0.2", "rate_bits_per_s": 5 * 10**7},
    ]
    path.write_text(json.dumps({"hosts": hosts}))
    monkeypatch.setenv(LAB_VARIABLE, str(path))
    assert [(host.name, host.rate_bits_per_s) for host in emulated_hosts() or ()] == [
        ("h1", 10**9),
        ("h2", 5 * 10**7),
    ]


@linux
def test_a_lab_that_has_gone_has_no_meter_and_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(LAB_VARIABLE, str(tmp_path / "lab.json"))
    monkeypatch.setenv(HOST_VARIABLE, "h1")
    assert WireMeter.of_this_host() is None  # what is loaded once, is loaded now
    before = descriptors()
    for _ in range(3):
        assert WireMeter.of_this_host() is None
    assert descriptors() == before


@linux
def test_a_device_without_a_shaping_queue_is_refused_and_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distsqz.metering.wire.DEVICE", "lo")
    with pytest.raises((LookupError, OSError)):
        WireMeter("lo", "/proc/self/ns/net")
    before = descriptors()
    with pytest.raises((LookupError, OSError)):
        WireMeter("lo", "/proc/self/ns/net")
    assert descriptors() == before


@linux
def test_a_thread_that_looks_elsewhere_comes_back() -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root")
    before = network()
    with open_netlink(f"/proc/{os.getpid()}/ns/net") as route:
        assert route.link_lookup(ifname="lo")
    assert network() == before


@linux
def test_a_namespace_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    before = network(), descriptors()
    missing, no_namespace = tmp_path / "missing", tmp_path / "file"
    no_namespace.touch()
    for path in (missing, no_namespace):
        with pytest.raises(OSError, match=r"No such file|cannot enter a network namespace"):
            open_netlink(str(path))
    assert not missing.exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert (network(), descriptors()) == before
