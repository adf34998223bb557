"""`launch/deploy.py`: models on their way to clients, whole, counted and timed."""

from __future__ import annotations

import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Commands, Finished, own_labs, report, wait_until

from distsqz.lab import lab
from distsqz.lab.privileges import what_is_missing
from distsqz.shipping.files import open_files, parse_models

SQUEEZENET_BYTES = 4_993_696
needs_lab = pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, Path]:
    """Two of one model, a step of training apart."""
    draw = torch.Generator().manual_seed(0)
    old = torch.randn(300_000, generator=draw) / 20
    new = old + torch.randn(300_000, generator=draw) * 1e-5
    paths = tmp_path / "old.pth", tmp_path / "new.pth"
    for path, weights in zip(paths, (old, new), strict=True):
        torch.save({"layer.weight": weights}, path)
    return paths


def test_a_model_is_sent_as_its_weights_and_a_header() -> None:
    with open_files(parse_models(["squeezenet"])) as (shipped,):
        shipped.file.seek(0)
        content = shipped.file.read()
    # The format of safetensors: eight bytes tell how long the header is, the tensors end the file.
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_bytes])
    assert len(content) == 8 + header_bytes + SQUEEZENET_BYTES
    assert header_bytes < 0.002 * SQUEEZENET_BYTES
    assert header["classifier.1.weight"]["shape"] == [1000, 512, 1, 1]


def test_alexnet_is_sent_in_244_403_360_bytes_and_a_header() -> None:
    with open_files(parse_models(["alexnet"])) as (shipped,):
        assert 0 < shipped.size_bytes - 244_403_360 < 10_000


def test_a_base_goes_before_its_update_once(checkpoints: tuple[Path, Path]) -> None:
    old, new = map(str, checkpoints)
    names = [f"{old}..{new}", f"{new}..{old}"]
    with open_files(parse_models(names)) as shipped_files:
        assert [shipped.name for shipped in shipped_files] == [old, *names]
        base, update, back = shipped_files
        assert (update.base_sha256, back.base_sha256) == (base.sha256, update.result_sha256)
        assert update.size_bytes < 0.6 * base.size_bytes
    with open_files(parse_models([old, names[0]])) as shipped_files:
        assert [shipped.name for shipped in shipped_files] == [old, names[0]]
    with open_files(parse_models([names[0], old])) as shipped_files:
        assert [shipped.name for shipped in shipped_files] == [old, names[0]]


@pytest.mark.ray
def test_clients_get_a_model_and_an_update(joined: Commands, checkpoints: tuple[Path, Path]) -> None:
    old, new = checkpoints
    done = joined("launch/deploy.py", "squeezenet", f"{old}..{new}", "--clients", 2, "--format", "json")
    assert done.status == 0, done.stderr
    said = json.loads(done.stdout)
    model, base, update = said["shipments"]
    assert [each["arrived"] for each in (model, base, update)] == [2, 2, 2]
    assert SQUEEZENET_BYTES < model["file_bytes"] < 1.002 * SQUEEZENET_BYTES
    assert update["file_bytes"] < 0.6 * base["file_bytes"]
    for each in (model, base, update):
        assert each["file_bytes"] <= each["tcp_bytes"] < each["file_bytes"] + 100
        assert each["wire_bytes"] is None  # loopback
    assert update["rebuild_s"] > 0
    assert model["rebuild_s"] is None
    table = done.table("shipments")
    assert list(table["client"]) and set(table["client"]) == {0, 1}
    assert done.run.meta["status"] == "complete"
    assert report(done.run.path)["shipments"] == said["shipments"]


def unknown(_place: Path) -> str:
    return "squeeznet"


def missing_part(place: Path) -> str:
    (place / "old").write_bytes(b"12345678")
    return f"{place / 'old'}..{place / 'gone'}"


def empty_file(place: Path) -> str:
    (place / "empty").touch()
    return str(place / "empty")


def no_checkpoint(place: Path) -> str:
    (place / "bad.pth").write_bytes(b"not a zip")
    return str(place / "bad.pth")


def unlike_sizes(place: Path) -> str:
    for name, size in (("old", 8), ("new", 12)):
        (place / name).write_bytes(np.random.default_rng(0).bytes(size))
    return f"{place / 'old'}..{place / 'new'}"


def not_utf8(place: Path) -> str:
    path = place / os.fsdecode(b"\xff.bin")
    path.write_bytes(b"12345678")
    return str(path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (unknown, "squeezenet1_1"),
        (missing_part, "there is no file"),
        (empty_file, "is empty"),
        (no_checkpoint, "is not a file of weights"),
        (unlike_sizes, "8 and 12 bytes"),
        (not_utf8, "the name is not UTF-8; rename the file"),
    ],
)
def test_a_model_that_cannot_be_sent_is_named(spoil: object, told: str, tmp_path: Path) -> None:
    model = spoil(tmp_path)  # type: ignore[operator]
    check_refused(refused(tmp_path, model, "--network", "loopback"), "MODEL", told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "MODEL: none given"),
        (("squeezenet", "squeezenet"), "name each once"),
        (("squeezenet", "--clients", 0), "--clients 0"),
        (("squeezenet", "--patience-s", 0), "--patience-s 0"),
        (("squeezenet", "--rate", "fast"), "--rate fast"),
        (("squeezenet", "--head-rate", "1"), "--head-rate 1"),
        (("squeezenet", "--network", "loopback", "--rate", "10mbit"), "--rate 10mbit: is for a lab"),
        (("squeezenet", "--network", "loopback", "--head-rate", "1gbit"), "--head-rate 1gbit: is for a lab"),
    ],
)
def test_an_option_out_of_reason_is_refused(options: tuple[object, ...], told: str, tmp_path: Path) -> None:
    check_refused(refused(tmp_path, *options), told)


def refused(tmp_path: Path, *options: object) -> Finished:
    return Commands(tmp_path / "runs", {}).here("launch/deploy.py", *options)


def check_refused(done: Finished, *told: str) -> None:
    assert (done.status, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for part in ("error: ", *told):
        assert part in line
    assert not done.runs.is_dir() or list(done.runs.iterdir()) == []


@needs_lab
@pytest.mark.ray
@pytest.mark.slow
def test_links_of_10_mbit_carry_the_file_and_its_headers(tmp_path: Path) -> None:
    before = own_labs(tmp_path / "runs")
    done = Commands(tmp_path / "runs", {})(
        *("launch/deploy.py", "squeezenet", "--clients", 2, "--network", "lab"),
        *("--rate", "10mbit", "--format", "json"),
    )
    assert done.status == 0, done.stderr
    assert wait_until(lambda: own_labs(tmp_path / "runs") <= before, timeout_s=20)
    (row,) = json.loads(done.stdout)["shipments"]
    assert abs(row["wire_bytes"] / (row["file_bytes"] * 1514 / 1448) - 1) < 0.02
    assert row["bottleneck"] == "clients"
    in_frames = SQUEEZENET_BYTES * 1514 / 1448
    first = 10 * 1514  # frames that the bucket holds
    assert row["bound_s"] == pytest.approx((in_frames - first) * 8 / 1e7, rel=0.002)
    assert 0.98 < row["last_vs_bound"] < 1.2
    assert row["head_wire_bytes"] > row["wire_bytes"]


@needs_lab
@pytest.mark.ray
@pytest.mark.slow
def test_a_client_that_is_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    before = own_labs(tmp_path / "runs")
    commands = Commands(tmp_path / "runs", {})
    process = commands.start(
        *("launch/deploy.py", "squeezenet", "--clients", 2, "--network", "lab"),
        *("--rate", "2mbit", "--format", "json"),
    )
    try:
        assert wait_until(lambda: list((tmp_path / "runs").glob("*/run.json")), timeout_s=90)
        assert wait_until(lambda: len(own_labs(tmp_path / "runs") - before) == 1, timeout_s=30)
        (name,) = own_labs(tmp_path / "runs") - before
        here = lab.find(name)
        assert wait_until(lambda: here.status()[1]["wire_rx_bytes"] > 2_000_000, timeout_s=60)
        here.set_cut("h2", cut=True)
        # Longer than a silence that breaks a connection, shorter than the patience.
        assert not wait_until(lambda: process.poll() is not None, timeout_s=15)
        here.set_cut("h2", cut=False)
        done = commands.finish(process)
    finally:
        commands.end()
    assert done.status == 0, done.stderr
    (row,) = json.loads(done.stdout)["shipments"]
    assert row["resumed"] >= 1
    assert row["resent"] == 0
    table = done.table("shipments").set_index("host")
    # The rest alone came again, but for what was in the kernel's hands when the connection broke.
    assert table.loc["h2", "tcp_rx_bytes"] < 1.1 * SQUEEZENET_BYTES


@needs_lab
@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupt_leaves_a_readable_run_and_no_lab(tmp_path: Path) -> None:
    before = own_labs(tmp_path / "runs")
    commands = Commands(tmp_path / "runs", {})
    process = commands.start(
        *(
            "launch/deploy.py",
            "squeezenet",
            "alexnet",
            "--clients",
            2,
            "--network",
            "lab",
            "--rate",
            "10mbit",
        ),
    )
    try:
        table = "*/shipments.parquet"
        assert wait_until(
            lambda: any(arrived(path) for path in (tmp_path / "runs").glob(table)), timeout_s=120
        )
        process.send_signal(signal.SIGINT)
        done = commands.finish(process)
    finally:
        commands.end()
    assert (done.status, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert done.run.meta["status"] == "interrupted"
    assert wait_until(lambda: own_labs(tmp_path / "runs") <= before, timeout_s=20)
    squeezenet, alexnet = report(done.run.path)["shipments"]
    assert squeezenet["arrived"] == 2
    assert alexnet["arrived"] == 0


def arrived(path: Path) -> bool:
    import pyarrow.parquet as pq

    return int(pq.read_table(path).num_rows) >= 2
