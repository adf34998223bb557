"""Random crops of calibration images, of random size and shape, mirrored at random.

They are chosen as for training (Szegedy et al., "Going deeper with convolutions", 2015, section 6). With the
centres of a hundred images alone, curvature overfits: weights that look unimportant on them matter on other
images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from distsqz.data.decoding import decode, prepare, resampling
from distsqz.models.preprocessing import Preprocessing

LEAST_AREA = 0.35
"""Minimum area of a crop, as a share of the image."""
CROPS_PER_BATCH = 10


def random_crops(
    paths: Sequence[Path], preprocessing: Preprocessing, per_image: int, seed: int = 0
) -> Iterator[Tensor]:
    """Batches of crops [10, 3, crop, crop]; each round over the images takes one crop of every image."""
    generator = np.random.default_rng(seed)
    crops: list[Image.Image] = []
    for _ in range(per_image):
        for path in paths:
            crops.append(_crop(decode(path), preprocessing, generator))
            if len(crops) == CROPS_PER_BATCH:
                yield prepare(crops, preprocessing)
                crops = []
    if crops:
        yield prepare(crops, preprocessing)


def _crop(image: Image.Image, preprocessing: Preprocessing, generator: np.random.Generator) -> Image.Image:
    width, height = image.size
    area = width * height * generator.uniform(LEAST_AREA, 1)
    aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    if preprocessing.resize_to == "square":
        aspect *= width / height  # a crop is warped like the whole image
    crop_width = min(round(np.sqrt(area * aspect)), width)
    crop_height = min(round(np.sqrt(area / aspect)), height)
    left = generator.integers(0, width - crop_width + 1)
    top = generator.integers(0, height - crop_height + 1)
    box = (left, top, left + crop_width, top + crop_height)
    size = (preprocessing.crop, preprocessing.crop)
    crop = image.resize(size, resampling(preprocessing), box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else crop
