"""Decoding of image files to the input of a network: decode, resize, crop, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distsqz.data.pixels import normalise
from distsqz.errors import RunError
from distsqz.models.preprocessing import Preprocessing

LARGEST_16_BIT = 65_535
FORMATS_OF_16_BITS = ("PNG", "PPM")
"""Formats whose integers of more than 8 bits go up to 65,535 in Pillow, whatever its data type for them."""


def decode(path: Path) -> Image.Image:
    """The image in a file, as RGB with 8 bits a channel.

    Grey images of 16 bits are divided by 65535. Those of 32 bits and of floating-point numbers have no range
    of their own: their least value becomes black and their greatest white (a single value: black).

    Raises:
        RunError: the file cannot be decoded.
    """
    try:
        with Image.open(path) as stored:
            return _in_8_bits(stored).convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{path}: this image cannot be decoded ({reason}); replace or remove it") from error


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of more than 8 bits to 0..255, which Pillow itself would clip."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in FORMATS_OF_16_BITS):
        return _grey(values / LARGEST_16_BIT)
    least, greatest = values.min(), values.max()
    if not np.isfinite([least, greatest]).all():
        raise ValueError("it holds values that are not finite")
    return _grey((values - least) / (greatest - least or 1))


def _grey(shares: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(255 * shares).astype(np.uint8))


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resizes an image and crops its centre as `preprocessing` says."""
    resize, crop = preprocessing.resize, preprocessing.crop
    width = height = resize
    if preprocessing.resize_to == "shorter side":
        scale = resize / min(image.size)
        width, height = (max(resize, round(side * scale)) for side in image.size)
    image = image.resize((width, height), resampling(preprocessing))
    left, top = (width - crop) // 2, (height - crop) // 2
    return image.crop((left, top, left + crop, top + crop))


def resampling(preprocessing: Preprocessing) -> Image.Resampling:
    """Pillow's constant for the filter of `preprocessing`."""
    return Image.Resampling[preprocessing.filter.upper()]


def prepare(images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    """Converts RGB images of one size to the input of a network: float32 [n, 3, height, width]."""
    pixels = np.stack([np.asarray(image) for image in images])
    if preprocessing.channels == "BGR":
        pixels = pixels[..., ::-1]
    pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return normalise(pixels, preprocessing.mean, preprocessing.std, preprocessing.scale)
