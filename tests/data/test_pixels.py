"""From bytes to network input: claims on normalising, enlarging and mirroring."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from distsqz.data.pixels import ArraySplit
from distsqz.data.split import PixelStatistics

NO_FLIPS = np.zeros(5, np.bool_)


def grey_split(image_size: int) -> ArraySplit:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), np.uint8)
    return ArraySplit(pixels, np.arange(5), PixelStatistics((0.25,), (0.5,)), image_size)


def test_a_grey_image_at_its_own_size_is_its_pixels_scaled_shifted_and_repeated():
    split = grey_split(28)
    images, labels = split.batch(np.array([3, 1]), NO_FLIPS[:2])
    expected = (split.pixels[[3, 1]].astype(np.float64) / 255 - 0.25) / 0.5
    np.testing.assert_allclose(images.numpy(), np.repeat(expected, 3, axis=1), atol=1e-6)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 1]


def test_enlarging_is_plain_bilinear_interpolation_of_the_normalised_image():
    small, _ = grey_split(28).batch(np.arange(5), NO_FLIPS)
    large, _ = grey_split(64).batch(np.arange(5), NO_FLIPS)
    expected = F.interpolate(small, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(large, expected, atol=1e-5, rtol=0)


def test_only_the_images_marked_are_mirrored_left_to_right():
    split = grey_split(64)
    flips = np.array([True, False, False, True, False])
    plain, _ = split.batch(np.arange(5), NO_FLIPS)
    mirrored, _ = split.batch(np.arange(5), flips)
    for image, flipped, before in zip(mirrored, flips, plain, strict=True):
        torch.testing.assert_close(image, before.flip(2) if flipped else before)


def test_fetching_leaves_the_stored_images_as_they_were():
    split = grey_split(28)
    before = split.pixels.copy()
    split.batch(np.arange(5), ~NO_FLIPS)
    np.testing.assert_array_equal(split.pixels, before)
