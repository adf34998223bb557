"""Machines that offer less than usual: commands work there, or name what is missing."""

from __future__ import annotations

import errno
import importlib
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, SMALL, Commands, environment
from PIL import Image
from tyro.conf import Positional

import distsqz
from distsqz.cli.command import parse
from distsqz.cli.report import find_runs
from distsqz.cluster import ray_cluster as cluster
from distsqz.errors import RequestError
from distsqz.shipping import files

MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")

LOAD_THROUGH_PROCESSES = """
from itertools import islice
import torch
from distsqz.data import open_data, train_batches

if __name__ == "__main__":
    split = open_data("synthetic", image_size=224, seed=0).train
    loaded, expected = (
        train_batches(split, rank=0, world_size=1, batch_size=4, seed=0, loader_workers=workers)
        for workers in (1, 0)
    )
    for batch, wanted in islice(zip(loaded, expected), 6):
        assert all(torch.equal(one, other) for one, other in zip(batch, wanted))
    loaded.close()
"""


@pytest.fixture
def deep() -> Iterator[Path]:
    """A directory whose path is too long for the sockets of Ray and of multiprocessing."""
    with tempfile.TemporaryDirectory(prefix="d" * 89) as directory:
        yield Path(directory)


def images(place: Path) -> Path:
    folder = place / "train" / "noise"
    folder.mkdir(parents=True)
    for number in range(8):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(folder / f"{number}.png")
    return place


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_needs_neither_a_home_nor_a_short_tmpdir(tmp_path: Path, deep: Path) -> None:
    commands = Commands(tmp_path / "runs", {"HOME": "/proc/nowhere", "TMPDIR": str(deep)})
    done = commands(
        *("launch/ddp.py", "--address", "local", *SMALL, "--workers", 1, "--steps", 2, "--warmup-steps", 0),
        *("--data", f"imagefolder:{images(tmp_path / 'images')}", "--loader-workers", 1),
    )
    assert done.status == 0, done.stderr
    assert len(done.table("steps")) == 2
    assert (
        f"TMPDIR={deep}: its path is too long for Ray's sockets; Ray's files are kept in /tmp" in done.stderr
    )


@pytest.mark.parametrize(
    ("dev_shm", "told"),
    [
        ("size=64k", None),
        ("nr_inodes=1", "RunError: loader processes cannot be started: No space left on device (their sem"),
    ],
)
def test_loader_processes_need_no_room_in_dev_shm_but_for_semaphores(
    tmp_path: Path, deep: Path, dev_shm: str, told: str | None
) -> None:
    if subprocess.run([*MOUNTS, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine allows no mounts of one's own")
    script = tmp_path / "load.py"
    script.write_text(LOAD_THROUGH_PROCESSES)
    small = f"mount -t tmpfs -o {dev_shm} tmpfs /dev/shm && exec {sys.executable} {script}"
    done = subprocess.run(
        [*MOUNTS, "sh", "-c", small],
        env=environment({"TMPDIR": str(deep), "PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if told is None:
        assert done.returncode == 0, done.stderr
    else:
        assert told in done.stderr


def test_the_directory_of_an_own_ray_is_short_and_can_be_written(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.setattr(cluster, "DEFAULT_TMPDIR", "/tmp")
    assert cluster._ray_directory() == Path("/tmp/ray")
    assert "TMPDIR=/proc: Ray cannot use it" in capsys.readouterr().err
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("TMPDIR", short)
        assert cluster._ray_directory() == Path(short) / "ray"
        monkeypatch.setattr(cluster, "LEAST_FREE_BYTES", 1 << 60)
        monkeypatch.setattr(cluster, "DEFAULT_TMPDIR", str(deep))
        with pytest.raises(RequestError, match=rf"TMPDIR={short}: Ray needs .* MiB are free; set it to"):
            cluster._ray_directory()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("d" * 90)))
    with pytest.raises(RequestError, match=r"RAY_TMPDIR=.*: its path is too long .* at most 3\d bytes"):
        cluster._ray_directory()


def test_what_an_own_ray_cannot_do_without_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_dev_shm(**_settings: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/shm")

    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(cluster, "_init", without_dev_shm)
    with pytest.raises(RequestError, match="Ray cannot start on this host: /dev/shm: No such file"):
        cluster._start_embedded(workers=1)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ConnectionError("no GCS\nat 127.0.0.1"),
            r"its processes do not answer \(no GCS at .*\); their logs are",
        ),
        (TimeoutError(), r"its processes do not answer \(TimeoutError\); their logs are in .*/logs$"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), r"its processes do not answer \(.*refused\)"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files$"),
    ],
)
def test_a_ray_that_does_not_start_for_another_reason_is_not_blamed_on_dev_shm(
    error: OSError, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_settings: object) -> None:
        raise error

    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(cluster, "_init", fails)
    with pytest.raises(RequestError, match=f"Ray cannot start on this host: {line}"):
        cluster._start_embedded(workers=1)


def test_a_mistyped_tmpdir_is_named_and_not_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", f"{short}/mistyped")
        assert cluster._ray_directory() == Path("/tmp/ray")
        assert f"RAY_TMPDIR={short}/mistyped: there is no such directory; Ray" in capsys.readouterr().err
        assert not list(Path(short).iterdir())


def test_a_user_without_any_home_is_given_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != "HOME"})
    importlib.reload(distsqz)
    assert Path.home() == Path("/")


@dataclass(frozen=True)
class Paths:
    """Options of every kind that is a path."""

    file: Positional[Path]
    runs: Path = Path("runs")
    resume: Path | None = None
    debug: bool = False


def test_every_path_expands_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["command", "~/m.sqz", "--runs=~/x", "--resume=~"])
    assert parse(Paths, "") == Paths(file=tmp_path / "m.sqz", runs=tmp_path / "x", resume=tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", "~no-such-user/m.sqz"])
    assert parse(Paths, "").file == Path("~no-such-user/m.sqz")


def test_models_and_runs_that_are_named_by_their_path_expand_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("old.sqz", "new.sqz"):
        (tmp_path / name).write_bytes(b"weights")
    ((update),) = files.parse_models(["~/old.sqz..~/new.sqz"])
    assert (update.base, update.model) == (str(tmp_path / "old.sqz"), str(tmp_path / "new.sqz"))
    with pytest.raises(RequestError, match=f"{tmp_path}: not a run directory"):
        find_runs(["~"], tmp_path / "runs")


def test_a_terminal_of_ascii_letters_gets_what_it_can_show() -> None:
    command = """
from dataclasses import dataclass
from distsqz.cli.command import run_command
@dataclass
class Options:
    debug: bool = False
run_command(lambda options: print("──  –  é"), Options, "")
"""  # noqa: RUF001
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env=environment({"PYTHONIOENCODING": "ascii"}),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"--  -  \\xe9\n"
