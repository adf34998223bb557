"""What every source of images offers: a training split, perhaps a validation split, and batches by index."""

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
        """Processes that should prepare batches ahead: 0 where preparing one costs next to nothing."""

    def __len__(self) -> int:
        """How many images there are."""

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:
        """The images at `indices`, in that order, mirrored left to right where `flips` is True.

        Raises:
            RunError: an image cannot be read; the line names its file.
        """


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of a set's pixels, one a channel, with white at 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocessing(self, image_size: int) -> Preprocessing:
        """What images of the set go through that are warped to a square of `image_size` pixels a side."""
        mean, std = (
            (one[0], one[0], one[0]) if len(one) == 1 else (one[0], one[1], one[2])  # grey is shown thrice
            for one in (self.mean, self.std)
        )
        return Preprocessing(resize_to="square", resize=image_size, crop=image_size, mean=mean, std=std)


@dataclass(frozen=True)
class ImageData:
    """An opened source, checked and ready to give batches."""

    name: str
    num_classes: int
    train: Split
    validation: Split | None
    preprocessing: Preprocessing
    """What its images go through on their way to a model."""
    left_out: str | None = None
    """One line on the files that are not used, for the user; None where all are."""


class SourceError(Exception):
    """Why a source cannot be opened; `open_data` puts the option and its value before it."""
