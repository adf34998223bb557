"""Random views of calibration images: a few photographs then say almost as much as many.

Cropped and mirrored as for training (Szegedy et al., "Going deeper with convolutions", 2015, section 6).
Seen by their centres alone, a hundred images mislead: what then looks harmless harms all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distsqz.compression.images import open_image, prepare
from distsqz.compression.quantised import Preprocessing

LEAST_AREA = 0.35
"""Of a photograph that a view shows."""
VIEWS_A_BATCH = 10


def random_views(
    paths: Sequence[Path], preprocessing: Preprocessing, per_image: int, seed: int = 0
) -> Iterator[Tensor]:
    """Batches [10, 3, crop, crop]; every image is seen once before any is seen again."""
    generator = np.random.default_rng(seed)
    pixels: list[Tensor] = []
    for _ in range(per_image):
        for path in paths:
            pixels.append(prepare(_view(open_image(path), preprocessing.crop, generator), preprocessing))
            if len(pixels) == VIEWS_A_BATCH:
                yield torch.stack(pixels)
                pixels = []
    if pixels:
        yield torch.stack(pixels)


def _view(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    width, height = image.size
    area = width * height * generator.uniform(LEAST_AREA, 1)
    aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_width = min(round(np.sqrt(area * aspect)), width)
    crop_height = min(round(np.sqrt(area / aspect)), height)
    left = generator.integers(0, width - crop_width + 1)
    top = generator.integers(0, height - crop_height + 1)
    box = (left, top, left + crop_width, top + crop_height)
    view = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else view
