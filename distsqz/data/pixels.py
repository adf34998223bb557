"""Normalisation of stored pixels, and a split that keeps all images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from distsqz.data.split import Batch, PixelStatistics


def normalise(
    pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], scale: float = 255.0
) -> Tensor:
    """Normalises pixels [n, channels, height, width]: (pixels / scale - mean) / std by channel, float32."""
    means, deviations = (
        torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1) for numbers in (mean, std)
    )
    return torch.from_numpy(pixels).float().div_(scale).sub_(means).div_(deviations)


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Small images, stored as bytes and enlarged batch by batch. Grey images become three equal channels."""

    pixels: NDArray[np.uint8]
    """[n, 1 or 3, height, width]"""
    labels: NDArray[np.int64]
    """[n]"""
    statistics: PixelStatistics
    image_size: int
    loader_workers: ClassVar[int] = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:
        """The images at `indices`, enlarged (see `Split`)."""
        # Bilinear resizing commutes with mirroring and normalising, which are cheaper on the small image.
        pixels = self.pixels[indices]
        pixels[flips] = pixels[flips, ..., ::-1]
        images = normalise(pixels, self.statistics.mean, self.statistics.std)
        size = (self.image_size, self.image_size)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(self.labels[indices])
