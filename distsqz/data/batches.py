"""Batches for training and evaluation, prepared ahead by loader processes if preparation takes time."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from distsqz.data import indices
from distsqz.data.handover import Handle, Outgoing
from distsqz.data.indices import Indices
from distsqz.data.split import Batch, Split
from distsqz.errors import InvalidValue, RunError

SEMAPHORE_FAULTS = (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
"""Error numbers of a /dev/shm that is missing, full or not writable."""

PREFETCH = 2
"""Batches that each loader process prepares ahead."""


def steps_per_epoch(split: Split, world_size: int, batch_size: int) -> int:
    """Number of steps in an epoch. Images that do not fill a global batch are left out.

    Raises:
        InvalidValue: the split is smaller than one global batch.
    """
    return indices.global_batches(len(split), world_size, batch_size)


def train_batches(
    split: Split,
    *,
    rank: int,
    world_size: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    loader_workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Endless batches of shuffled, randomly mirrored images; closing the generator ends its processes.

    The batch of a step depends only on `seed`, `rank`, `world_size`, `batch_size` and the number of the step.

    Args:
        split: the images.
        rank: rank that receives the batches.
        world_size: number of ranks.
        batch_size: images in a batch.
        seed: seed of order and mirroring.
        start_step: number of the first step.
        loader_workers: number of loader processes; None leaves it to the split.

    Raises:
        InvalidValue: the split is smaller than one global batch, or `loader_workers` is negative.
        RunError: (while iterating) an image cannot be read, or a loader process died.
    """
    steps_per_epoch(split, world_size, batch_size)
    wanted = indices.training_indices(
        len(split),
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
    )
    return _load(split, wanted, _loader_workers(split, loader_workers))


def evaluation_batches(
    split: Split, *, rank: int, world_size: int, batch_size: int, loader_workers: int | None = None
) -> Generator[Batch, None, None]:
    """Batches of a rank's share of `split`, not mirrored. Over all ranks every image occurs exactly once.

    Raises:
        InvalidValue: `loader_workers` is negative.
        RunError: (while iterating) an image cannot be read, or a loader process died.
    """
    wanted = indices.evaluation_indices(len(split), rank=rank, world_size=world_size, batch_size=batch_size)
    return _load(split, wanted, _loader_workers(split, loader_workers))


def _loader_workers(split: Split, asked: int | None) -> int:
    if asked is not None and asked < 0:
        raise InvalidValue("loader_workers", asked, "must be 0 (prepare batches in the rank) or more")
    return split.loader_workers if asked is None else asked


class _Batches(Dataset[Batch | tuple[Handle, Handle] | RunError]):
    """Batches of a split by the indices of their images. Loader processes return handles instead."""

    def __init__(self, split: Split) -> None:
        self._split = split
        # The loader requests the next batch just before it opens the one that made room for it.
        tensors_per_batch = 2
        self._outgoing = Outgoing(keep=tensors_per_batch * (PREFETCH + 1))

    def __getitem__(self, wanted: Indices) -> Batch | tuple[Handle, Handle] | RunError:
        # Returned, not raised: a DataLoader would wrap the line in a traceback of the loader process.
        try:
            images, labels = self._split.batch(*wanted)
            if get_worker_info() is None:
                return images, labels
            return self._outgoing.put(images), self._outgoing.put(labels)
        except RunError as error:
            return error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return RunError(f"{place}a batch cannot be prepared ({error.strerror or error})")

    def __reduce__(self) -> tuple[object, ...]:
        # As bytes, because torch would send tensors to a loader process through /dev/shm.
        return _unpickled, (pickle.dumps(self._split),)


def _unpickled(split: bytes) -> _Batches:
    return _Batches(pickle.loads(split))


def _load(split: Split, wanted: Iterator[Indices], loader_workers: int) -> Generator[Batch, None, None]:
    loader = DataLoader(
        _Batches(split),
        batch_size=None,
        sampler=wanted,
        num_workers=loader_workers,
        prefetch_factor=PREFETCH if loader_workers else None,
        collate_fn=_as_it_is,
        # The consumer runs threads (gRPC's, torch's) whose locks a forked child would inherit held; a fork
        # server would outlive the loader. A spawned process starts clean and ends with the loader.
        multiprocessing_context="spawn" if loader_workers else None,
        # Otherwise the loader would draw from the global generator, which changes what the model draws.
        generator=torch.Generator(),
    )
    try:
        for loaded in _started(loader):
            if isinstance(loaded, RunError):
                raise loaded
            images, labels = (each.open() if isinstance(each, Handle) else each for each in loaded)
            yield images, labels
    except RuntimeError as error:
        if not str(error).startswith(("DataLoader worker", "unable to open file </proc/")):
            raise
        reason = " ".join(str(error).split())
        raise RunError(
            f"a loader process died: {reason} (out of memory? Try a smaller `batch_size`)"
        ) from error


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Starts the loader's processes and returns its batches."""
    try:
        return iter(loader)
    except OSError as error:
        needs = "their semaphores need room in /dev/shm; " if error.errno in SEMAPHORE_FAULTS else ""
        raise RunError(
            f"loader processes cannot be started: {error.strerror or error} "
            f"({needs}`loader_workers=0` does without)"
        ) from error


def _as_it_is(batch: object) -> object:
    return batch
