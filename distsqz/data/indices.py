"""Assignment of images to steps and ranks, from seed, rank and step alone, so that any run can resume.

Every epoch shuffles the split anew. The global batch of a step is a contiguous slice of that order, and the
batch of a rank is a contiguous part of the slice. Joined in rank order, the batches of n ranks are exactly
the batch of one process with n times the batch size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distsqz.errors import InvalidValue

Indices = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Arguments of `Split.batch`: indices of the images, and which of them to mirror."""

FLIPS = 1
"""Makes the random stream of mirroring different from that of shuffling."""


def global_batches(images: int, world_size: int, batch_size: int) -> int:
    """Number of whole global batches in an epoch. Remaining images are left out of it.

    Raises:
        InvalidValue: there is no whole global batch, or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise InvalidValue("batch_size", batch_size, "must be at least 1")
    global_batch = world_size * batch_size
    if images < global_batch:
        largest = images // world_size
        remedy = f"`batch_size={largest}`" if largest else f"`workers={images}`"
        raise InvalidValue(
            "batch_size",
            batch_size,
            f"on {world_size} workers a step takes {global_batch} images and the training set has {images}; "
            f"give at most {remedy}",
        )
    return images // global_batch


def training_indices(
    images: int, *, rank: int, world_size: int, batch_size: int, seed: int, start_step: int
) -> Iterator[Indices]:
    """Endless batches of a rank, from `start_step` on."""
    per_epoch = global_batches(images, world_size, batch_size)
    first_epoch, first_step = divmod(start_step, per_epoch)
    for epoch in itertools.count(first_epoch):
        order = np.random.default_rng([seed, epoch]).permutation(images)
        flipped = np.random.default_rng([seed, epoch, FLIPS]).random(images) < 0.5
        for step in range(first_step if epoch == first_epoch else 0, per_epoch):
            start = (step * world_size + rank) * batch_size
            chosen = order[start : start + batch_size]
            yield chosen, flipped[chosen]


def evaluation_indices(images: int, *, rank: int, world_size: int, batch_size: int) -> Iterator[Indices]:
    """Batches of every `world_size`-th image from `rank` on, not mirrored. The last batch may be smaller."""
    shard = np.arange(rank, images, world_size)
    for start in range(0, len(shard), batch_size):
        chosen = shard[start : start + batch_size]
        yield chosen, np.zeros(len(chosen), np.bool_)
