"""Batches as a rank gets them: the same however they are prepared, and no process left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from distsqz.data import Batch, Split, evaluation_batches, open_data, steps_per_epoch, train_batches
from distsqz.errors import RequestError, RunError


@pytest.fixture
def synthetic() -> Split:
    return open_data("synthetic", image_size=8, seed=0).train


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A class of eight JPEG files, 0.jpg to 7.jpg."""
    directory = tmp_path / "train" / "noise"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(directory / f"{number}.jpg")
    return directory


class DeadlySplit:
    """Kills whichever process asks it for a batch."""

    loader_workers = 1

    def __len__(self) -> int:
        return 8

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:  # noqa: ARG002
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class UnreadableSplit:
    """Lies in a file that is gone."""

    loader_workers = 1

    def __len__(self) -> int:
        return 8

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:  # noqa: ARG002
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/data/images.bin")


def loader_pids() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_ranks_together_get_what_one_process_would(synthetic):
    ranks = [train_batches(synthetic, rank=rank, world_size=2, batch_size=4, seed=1) for rank in range(2)]
    alone = train_batches(synthetic, rank=0, world_size=1, batch_size=8, seed=1)
    for first, second, whole in islice(zip(*ranks, alone, strict=True), 3):
        for part, other_part, together in zip(first, second, whole, strict=True):
            assert torch.equal(torch.cat([part, other_part]), together)


def test_batches_leave_the_global_random_numbers_alone(synthetic):
    before = torch.random.get_rng_state()
    next(train_batches(synthetic, rank=0, world_size=1, batch_size=4, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_no_split_can_give_is_refused_when_asked_for_not_when_iterated(synthetic):
    with pytest.raises(RequestError, match="loader_workers -1"):
        train_batches(synthetic, rank=0, world_size=1, batch_size=4, seed=1, loader_workers=-1)
    with pytest.raises(RequestError, match="batch_size 65536: on 2 workers"):
        train_batches(synthetic, rank=0, world_size=2, batch_size=65_536, seed=1)
    assert steps_per_epoch(synthetic, world_size=2, batch_size=1000) == 32


def test_loader_processes_give_the_same_batches_and_are_gone_when_closed(photos):
    split = open_data(f"imagefolder:{photos.parents[1]}", image_size=16, seed=0).train
    batches, here = (
        train_batches(split, rank=0, world_size=2, batch_size=2, seed=0, loader_workers=workers)
        for workers in (None, 0)
    )
    for (images, labels), (images_here, labels_here) in islice(zip(batches, here, strict=True), 5):
        assert torch.equal(images, images_here)
        assert torch.equal(labels, labels_here)
    loaders = loader_pids()
    assert len(loaders) == 2
    batches.close()
    assert not any(is_running(pid) for pid in loaders)


def test_a_truncated_image_among_good_ones_is_named_in_one_line_and_ends_the_loaders(photos):
    bad = photos / "5.jpg"
    bad.write_bytes(bad.read_bytes()[:2000])
    split = open_data(f"imagefolder:{photos.parents[1]}", image_size=16, seed=0).train
    batches = evaluation_batches(split, rank=0, world_size=1, batch_size=4, loader_workers=1)
    next(batches)
    loaders = loader_pids()
    with pytest.raises(RunError, match=rf"^{bad}: this image cannot be decoded \(.*\).*$") as failure:
        next(batches)
    assert "\n" not in str(failure.value)
    assert len(loaders) == 1
    assert not is_running(loaders[0])


def test_a_loader_process_that_dies_is_reported_in_one_line():
    batches = train_batches(DeadlySplit(), rank=0, world_size=1, batch_size=2, seed=0)
    with pytest.raises(RunError, match=r"^a loader process died: .*$") as failure:
        next(batches)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_and_not_blamed_on_the_loaders(loader_workers):
    batches = train_batches(
        UnreadableSplit(), rank=0, world_size=1, batch_size=2, seed=0, loader_workers=loader_workers
    )
    with pytest.raises(RunError, match=r"^/data/images.bin: a batch cannot be prepared \(No such file[^;]*$"):
        next(batches)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, r"\(their semaphores need room in /dev/shm; `loader_workers=0` does without\)"),
        (errno.EMFILE, r"\(`loader_workers=0` does without\)"),
    ],
)
def test_only_a_fault_of_dev_shm_is_blamed_on_it(synthetic, code, reason, monkeypatch):
    def fails(_loader: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(DataLoader, "__iter__", fails)
    batches = train_batches(synthetic, rank=0, world_size=1, batch_size=2, seed=0, loader_workers=1)
    with pytest.raises(RunError, match=f"^loader processes cannot be started: {os.strerror(code)} {reason}$"):
        next(batches)
