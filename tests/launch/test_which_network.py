"""Which network is measured, and a lab made for one command: there while it measures, gone when it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL_MODEL, Commands, own_labs, wait_until

from distsqz.cli import network
from distsqz.cli.network import LabByDefault, NetworkOptions, lab_for
from distsqz.cli.spelling import spell
from distsqz.cluster.options import SessionOptions
from distsqz.errors import RequestError
from distsqz.lab import lab
from distsqz.lab.lab import LabOptions
from distsqz.lab.privileges import what_is_missing

HERE = SessionOptions(address="local")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "DISTSQZ_LAB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "named_cluster", lambda address: None if address == "local" else address)


def test_four_hosts_at_a_gigabit_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "what_is_missing", lambda: None)
    monkeypatch.setattr(lab, "available_memory", lambda: 64 << 30)
    assert lab_for(LabByDefault(), SessionOptions()) == LabOptions(hosts=4, rate="1gbit")


def test_two_hosts_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "what_is_missing", lambda: None)
    monkeypatch.setattr(lab, "available_memory", lambda: 8 << 30)
    assert lab_for(LabByDefault(rate="100mbit"), SessionOptions()) == LabOptions(hosts=2, rate="100mbit")


def test_as_many_hosts_as_a_command_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "what_is_missing", lambda: None)
    assert lab_for(LabByDefault(), SessionOptions(), hosts=9) == LabOptions(hosts=9, rate="1gbit")


@pytest.mark.parametrize(
    ("missing", "memory", "gpus", "said"),
    [
        ("no namespaces", 64 << 30, False, "no namespaces"),
        (None, 4 << 30, False, "two hosts take 7 GiB of memory"),
        (None, 64 << 30, True, "share the GPUs"),
    ],
)
def test_loopback_and_its_reason_where_a_lab_cannot_be(
    missing: str | None,
    memory: int,
    gpus: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(network, "what_is_missing", lambda: missing)
    monkeypatch.setattr(lab, "available_memory", lambda: memory)
    assert lab_for(LabByDefault(), SessionOptions(gpus=gpus)) is None
    line = capsys.readouterr().err
    assert line.startswith("measuring over loopback") and said in line


@pytest.mark.parametrize(
    ("options", "session"),
    [
        (LabByDefault(network="loopback"), SessionOptions()),
        (LabByDefault(network="cluster"), SessionOptions(address="h:6379")),
        (LabByDefault(), SessionOptions(address="h:6379")),
        (LabByDefault(), HERE),
    ],
)
def test_no_lab_where_another_network_is_named(options: LabByDefault, session: SessionOptions) -> None:
    assert lab_for(options, session) is None


def test_a_command_that_makes_no_lab_by_default_makes_one_where_its_links_are_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "what_is_missing", lambda: None)
    monkeypatch.setattr(lab, "available_memory", lambda: 64 << 30)
    assert lab_for(NetworkOptions(), SessionOptions()) is None
    assert lab_for(NetworkOptions(rate="8mbit"), SessionOptions()) == LabOptions(hosts=4, rate="8mbit")
    assert lab_for(NetworkOptions(hosts=3), SessionOptions()) == LabOptions(hosts=3, rate="1gbit")
    assert lab_for(NetworkOptions(network="lab"), SessionOptions()) == LabOptions(hosts=4, rate="1gbit")


@pytest.mark.parametrize(
    ("options", "session", "named"),
    [
        ({"network": "cluster"}, SessionOptions(), "--network cluster"),
        ({"network": "lab"}, SessionOptions(address="h:6379"), "--network lab"),
        ({"network": "loopback"}, SessionOptions(address="h:6379"), "--network loopback"),
        ({"network": "lab"}, HERE, "--address local"),
        ({"network": "loopback", "hosts": 3}, SessionOptions(), "--hosts 3"),
        ({"rate": "1gbit"}, SessionOptions(address="h:6379"), "--rate 1gbit"),
        ({"rate": "1gbit"}, HERE, "--rate 1gbit"),
        ({"hosts": 3}, HERE, "--hosts 3"),
        ({"network": None, "rate": "1gbit"}, SessionOptions(address="h:6379"), "--rate 1gbit"),
        ({"network": None, "rate": "1gbit"}, HERE, "--rate 1gbit"),
        ({"hosts": 1}, SessionOptions(), "--hosts 1"),
        ({"rate": "fast"}, SessionOptions(), "--rate fast"),
    ],
)
def test_what_contradicts_is_refused(options: dict[str, object], session: SessionOptions, named: str) -> None:
    with pytest.raises(RequestError) as refused:
        lab_for(LabByDefault(**options), session)  # type: ignore[arg-type]
    assert spell(refused.value, LabByDefault).startswith(f"{named}: ")


@pytest.mark.parametrize(
    ("options", "also", "named"),
    [
        ({"rate": "100mbit"}, None, "--rate 100mbit"),
        ({"hosts": 3}, None, "--hosts 3"),
        ({}, "--rates 100mbit 1gbit", "--rates 100mbit 1gbit"),
    ],
)
def test_what_describes_a_lab_is_not_dropped_where_none_can_be_made(
    options: dict[str, Any], also: str | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "what_is_missing", lambda: "no namespaces")
    monkeypatch.setattr(lab, "available_memory", lambda: 64 << 30)
    with pytest.raises(RequestError) as refused:
        lab_for(LabByDefault(**options), SessionOptions(), also=also)
    assert str(refused.value) == f"{named}: is for a lab, and none is made here: no namespaces"


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("launch/compare.py", ("--rates", "100mbit", "1gbit")),
        ("launch/compare.py", ("--rate", "100mbit")),
        ("launch/ddp.py", ("--rate", "100mbit")),
    ],
)
def test_rates_of_one_host_are_refused_in_one_line(
    script: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    done = Commands(tmp_path / "runs", {}).here(script, "--address", "local", *options)
    assert (done.status, done.stdout) == (2, "")
    told = "is for a lab, and --address local is one host; leave it out"
    assert done.stderr.splitlines() == [f"error: {' '.join(options)}: {told}"]


def test_a_lab_s_rate_is_not_asked_for_on_one_of_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "emulated_hosts", list)
    assert lab_for(LabByDefault(), SessionOptions()) is None
    with pytest.raises(RequestError, match="--rate 100mbit: this process is on a host of a lab"):
        lab_for(LabByDefault(rate="100mbit"), SessionOptions())
    monkeypatch.setenv(network.OWN_LAB, "made-for-it")
    assert lab_for(LabByDefault(rate="100mbit"), SessionOptions()) is None


needs_lab = pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))


@needs_lab
@pytest.mark.ray
def test_a_lab_is_made_measured_in_and_taken_down(tmp_path: Path) -> None:
    # TMPDIR is too long a path for Ray's sockets; on the lab's hosts Ray takes their own /tmp/ray.
    before = own_labs(tmp_path / "runs")
    done = Commands(tmp_path / "runs", {"TMPDIR": str(tmp_path)})(
        *("launch/compare.py", "--network", "lab", "--hosts", 2, "--rate", "100mbit", "--strategies", "ddp"),
        *("--models", SMALL_MODEL, "squeezenet", "--image-size", 32, "--batch-size", 2),
        *("--steps", 2, "--warmup-steps", 1),
    )
    assert done.status == 0, done.stderr
    assert wait_until(lambda: own_labs(tmp_path / "runs") <= before, timeout_s=20)
    for cell in done.run.cells:
        assert {*cell["hosts"]} <= {"h1", "h2"}
        assert len(cell["hosts"]) == (1 if cell["strategy"] == "alone" else 2)  # of a baseline's one waits
        assert cell["emulated_rate_bits_per_s"] == {"h1": 10**8, "h2": 10**8}
    assert "each link shaped to 100mbit each way" in done.stdout
    steps, links = done.table("steps"), done.table("links")
    squeezenet = steps[steps["model"] == "squeezenet"]
    # What a step leaves in the kernel's queues goes over the wire in the next one.
    assert 1.02 < squeezenet["wire_tx_bytes"].sum() / squeezenet["tcp_tx_bytes"].sum() < 1.08
    # Shaped: loopback would carry a hundred times as much. How well, the tests of links tell.
    assert (links["goodput_bytes_per_s"] * 8e-6).between(20, 130).all()


@needs_lab
@pytest.mark.ray
@pytest.mark.slow
def test_rates_are_measured_in_turn_and_pooled(tmp_path: Path) -> None:
    before = own_labs(tmp_path / "runs")
    done = Commands(tmp_path / "runs", {})(
        *("launch/compare.py", "--hosts", 2, "--rates", "20mbit", "200mbit", "--strategies", "ddp"),
        *("--models", SMALL_MODEL, "squeezenet", "--image-size", 32, "--batch-size", 2),
        *("--steps", 6, "--warmup-steps", 1, "--block-steps", 1, "--format", "json"),
    )
    assert done.status == 0, done.stderr
    assert own_labs(tmp_path / "runs") <= before
    report = json.loads(done.stdout)
    rates = [run["options"]["network"]["rate"] for run in report["runs"]]
    assert rates == [None] * 4  # the command's; the links' are the cells'
    of_links = [{*cell["emulated_rate_bits_per_s"].values()} for cell in report["cells"]]
    assert of_links == 2 * [{20_000_000}] + 4 * [{200_000_000}] + 2 * [{20_000_000}]
    pooled = {row["rate_bits_per_s"]: row for row in report["sessions"] if row["kind"] == "models"}
    assert {rate: row["sessions"] for rate, row in pooled.items()} == {20_000_000: 2, 200_000_000: 2}
    # SqueezeNet sends five times the bytes of the small model: the slower the link, the more that counts.
    assert pooled[20_000_000]["time_ratio"] > pooled[200_000_000]["time_ratio"] > 1


@needs_lab
@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupt_is_passed_on_and_the_lab_goes(tmp_path: Path) -> None:
    before = own_labs(tmp_path / "runs")
    commands = Commands(tmp_path / "runs", {})
    process = commands.start(
        *("launch/compare.py", "--network", "lab", "--hosts", 2, "--models", SMALL_MODEL),
        *("--image-size", 16, "--batch-size", 4, "--steps", 100_000, "--block-steps", 1000),
    )
    try:
        assert wait_until(lambda: list((tmp_path / "runs").glob("*/run.json")), timeout_s=90)
        assert own_labs(tmp_path / "runs") - before
        process.send_signal(signal.SIGTERM)
        done = commands.finish(process)
    finally:
        commands.end()
    assert done.status == 130
    assert done.run.meta["status"] == "interrupted"
    assert wait_until(lambda: own_labs(tmp_path / "runs") <= before, timeout_s=20)
