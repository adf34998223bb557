"""Which images a rank gets at a step: plain arithmetic on seed, rank and step, so that any run can resume.

Every epoch shuffles the split anew. A step's global batch is a contiguous slice of that order, and a rank's
batch the rank's contiguous part of the slice: joined in rank order, the batches of n ranks are exactly what
one process with n times the batch size would get.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distsqz.errors import InvalidValue

Indices = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""What `Split.batch` takes: which images, and which of them to mirror."""

FLIPS = 1
"""Keeps the stream of random numbers that decides flips apart from the one that shuffles."""


def steps_per_epoch(images: int, world_size: int, batch_size: int) -> int:
    """Global batches that fit into `images`; what is left over waits for another epoch's order.

    Raises:
        InvalidValue: not even one fits, or `batch_size` is not positive.
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


def training_plan(
    images: int, *, rank: int, world_size: int, batch_size: int, seed: int, start_step: int
) -> Iterator[Indices]:
    """The batches of `rank` from `start_step` on, without end."""
    per_epoch = steps_per_epoch(images, world_size, batch_size)
    first_epoch, first_step = divmod(start_step, per_epoch)
    for epoch in itertools.count(first_epoch):
        order = np.random.default_rng([seed, epoch]).permutation(images)
        flipped = np.random.default_rng([seed, epoch, FLIPS]).random(images) < 0.5
        for step in range(first_step if epoch == first_epoch else 0, per_epoch):
            start = (step * world_size + rank) * batch_size
            chosen = order[start : start + batch_size]
            yield chosen, flipped[chosen]


def evaluation_plan(images: int, *, rank: int, world_size: int, batch_size: int) -> Iterator[Indices]:
    """Every `world_size`-th image from `rank` on, none mirrored; the last batch may be smaller."""
    shard = np.arange(rank, images, world_size)
    for start in range(0, len(shard), batch_size):
        chosen = shard[start : start + batch_size]
        yield chosen, np.zeros(len(chosen), np.bool_)
