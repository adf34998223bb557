"""Requests that cannot be met: status 2, one line that says what would be right, and nothing left behind."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from commands import SHARED_CPUS, Commands, Finished, ray_home

from distsqz.cluster import ray_cluster as cluster
from distsqz.models.registry import MODELS


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Commands]:
    """Commands that must be refused before they start a Ray."""
    with ray_home() as home:
        yield Commands(tmp_path / "runs", {"RAY_TMPDIR": str(home)})
        assert list(home.iterdir()) == []


def check_refused(refused: Finished) -> str:
    """The one line of a refusal."""
    assert refused.status == 2, refused.stderr
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert not refused.runs.is_dir() or list(refused.runs.iterdir()) == []
    return line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--workers", 0), ("--workers 0", "at least 1")),
        (("--collective-timeout-s", 9), ("--collective-timeout-s 9", "at least 10")),
        (("--batch-size", 0), ("--batch-size 0", "at least 1")),
        (("--steps", 0), ("--steps 0", "at least 1")),
        (("--batchsize", 4), ("--batchsize", "perhaps you meant --batch-size")),
        (("--model", "squeeznet"), ("--model squeeznet", *MODELS)),
        (("--model", "torch.nn:Identity"), ("--model torch.nn:Identity", "no parameters")),
        (
            ("--model", "tests.own_models:TwoHeads", "--image-size", 16),
            ("TwoHeads: returns tuple in training",),
        ),
        (("--runs", "/proc/nowhere"), ("--runs /proc/nowhere", "that you can write")),
    ],
)
def test_an_option_out_of_reason_is_refused(
    alone: Commands, options: tuple[object, ...], told: tuple[str, ...]
) -> None:
    line = check_refused(alone.here("launch/ddp.py", *options))
    for part in told:
        assert part in line


def test_a_file_in_the_way_of_the_runs_directory_is_named(alone: Commands, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert f"--runs {in_the_way}" in check_refused(alone.here("launch/ddp.py", "--runs", in_the_way))
    assert in_the_way.read_bytes() == b""


def test_comparing_a_model_with_itself_is_refused(alone: Commands) -> None:
    line = check_refused(alone.here("launch/compare.py", "--models", "squeezenet", "squeezenet"))
    assert "name each model once" in line


def missing_directory(place: Path) -> tuple[str, Path]:
    return f"imagefolder:{place / 'missing'}", place / "missing"


def folder_without_classes(place: Path) -> tuple[str, Path]:
    (place / "train").mkdir()
    return f"imagefolder:{place}", place / "train"


def truncated_idx_file(place: Path) -> tuple[str, Path]:
    """All four files of Fashion-MNIST, of which the images to train on end early."""
    for name, images in (("train", 100), ("t10k", 10)):
        pixels = struct.pack(">4B3I", 0, 0, 8, 3, images, 28, 28) + bytes(images * 28 * 28)
        labels = struct.pack(">4BI", 0, 0, 8, 1, images) + bytes(images)
        (place / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (place / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    cut = place / "train-images-idx3-ubyte.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    return f"fashion-mnist:{place}", cut


@pytest.mark.parametrize("spoil", [missing_directory, folder_without_classes, truncated_idx_file])
def test_data_that_cannot_be_had_is_named(
    alone: Commands, tmp_path: Path, spoil: Callable[[Path], tuple[str, Path]]
) -> None:
    place = tmp_path / "data"
    place.mkdir()
    data, culprit = spoil(place)
    line = check_refused(alone.here("launch/ddp.py", "--data", data))
    assert f"--data {data}: {culprit}" in line


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_ray_answers_is_refused_before_ray_itself_gives_up(
    alone: Commands, listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        line = check_refused(alone.here("launch/ddp.py", "--address", address))
        assert time.monotonic() - began < 30  # Ray itself would try for 40 s
    assert f"--address {address}" in line


def test_a_server_that_is_no_ray_is_told_from_one(alone: Commands) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('0.0.0.0:0')}"
    server.start()
    line = check_refused(alone.here("launch/ddp.py", "--address", address))
    server.stop(grace=None)
    assert f"--address {address}: what answers there is no Ray" in line


def test_more_workers_than_an_own_ray_has_room_for_are_refused(alone: Commands) -> None:
    line = check_refused(alone.here("launch/ddp.py", "--workers", 4000))
    assert "--workers 4000: " in line
    assert "carry at most" in line


def test_options_of_a_parameter_server_without_one_are_refused(alone: Commands) -> None:
    line = check_refused(alone.here("launch/compare.py", "--strategies", "ddp", "--consistency", "async"))
    assert "--consistency async: is for ps (parameter server); name ps in --strategies" in line


@pytest.mark.ray
def test_more_workers_than_the_cluster_has_cores_are_refused(joined: Commands) -> None:
    line = check_refused(joined("launch/ddp.py", "--workers", SHARED_CPUS + 1))
    assert f"--workers {SHARED_CPUS + 1}" in line
    assert f"the cluster has {SHARED_CPUS};" in line
