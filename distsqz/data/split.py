"""Interface of image sources: a training split, an optional validation split, and batches by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distsqz.models.preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]
"""Images, float32 [n, 3, image_size, image_size], normalised; labels, int64 [n]."""


class Split(Protocol):
    """Labelled images that are fetched by index, in any order, by any process."""

    @property
    def loader_workers(self) -> int:
        """Default number of loader processes; 0 if preparing a batch takes almost no time."""

    def __len__(self) -> int:
        """Number of images."""

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:
        """The images at `indices`, in that order, mirrored left to right where `flips` is True.

        Raises:
            RunError: an image cannot be read; the message names its file.
        """


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of a data set's pixels by channel, on a scale of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocessing(self, image_size: int) -> Preprocessing:
        """Preprocessing of images that are warped to a square of `image_size` pixels a side."""
        mean, std = (  # grey is repeated in three channels
            (one[0], one[0], one[0]) if len(one) == 1 else (one[0], one[1], one[2])
            for one in (self.mean, self.std)
        )
        return Preprocessing(resize_to="square", resize=image_size, crop=image_size, mean=mean, std=std)


@dataclass(frozen=True)
class ImageData:
    """An opened source, whose files have been checked."""

    name: str
    num_classes: int
    train: Split
    validation: Split | None
    preprocessing: Preprocessing
    """Preprocessing of its images."""
    left_out: str | None = None
    """A line for the user about files that are not used; None if all are used."""


class SourceError(Exception):
    """A source cannot be opened; `open_data` raises it as an InvalidValue."""
