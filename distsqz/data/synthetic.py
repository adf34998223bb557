"""Synthetic images: noise that takes no time to load, so that a step only computes and communicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distsqz.data.split import Batch, ImageData, PixelStatistics

CLASSES = 1000  # ImageNet's
LENGTH = 65_536
POOL = 32
STATISTICS = PixelStatistics(mean=(0.0,), std=(1.0,))


@dataclass(frozen=True, eq=False)
class SyntheticSplit:
    """A pool of noise images, each with one label, repeated up to `LENGTH`."""

    images: Tensor
    """[2 * POOL, 3, image_size, image_size]: the pool, then its mirror images."""
    labels: Tensor
    """int64 [POOL]"""
    loader_workers: ClassVar[int] = 0

    def __len__(self) -> int:
        return LENGTH

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:
        """Images and labels of the pool, repeated (see `Split`)."""
        which = indices % POOL
        return self.images[torch.from_numpy(which + POOL * flips)], self.labels[torch.from_numpy(which)]


def open_synthetic(image_size: int, seed: int, num_classes: int | None = None) -> ImageData:
    """Opens noise of mean 0 and standard deviation 1, with labels of `num_classes` classes (default 1000)."""
    classes = num_classes or CLASSES
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, 3, image_size, image_size, generator=generator)
    labels = torch.randint(classes, (POOL,), generator=generator)
    train = SyntheticSplit(torch.cat([pool, pool.flip(3)]), labels)
    return ImageData(
        "synthetic", classes, train, validation=None, preprocessing=STATISTICS.preprocessing(image_size)
    )
