"""Preprocessing that a trained model expects: how images are resized, cropped and normalised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ResizeTo = Literal["shorter side", "square"]
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
"""Pillow's resampling filters."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps from a decoded image to the input of a model. They are stored with its weights."""

    channels: Literal["RGB", "BGR"] = "RGB"
    resize_to: ResizeTo = "shorter side"
    """Target of resizing. "shorter side" keeps the proportions of the image; "square" warps it to a
    square."""
    resize: int = 256
    """Length of the shorter side, or of the sides of the square, before cropping, in pixels."""
    filter: Filter = "bilinear"
    """Filter for resizing."""
    crop: int = 224
    """Height and width of the centre crop, in pixels; at most `resize`."""
    scale: float = 255.0
    """Divisor of the pixels, from 0 to 255, before the mean is subtracted."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean by channel, in the order of `channels`."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation by channel, in the order of `channels`."""

    def for_crop(self, crop: int) -> Preprocessing:
        """The same for a crop of another size in pixels; `resize` keeps its ratio to the crop."""
        return replace(self, resize=max(crop, round(self.resize * crop / self.crop)), crop=crop)


CAFFE = Preprocessing(
    channels="BGR",
    resize_to="square",
    crop=227,
    scale=1.0,
    mean=(104.0, 117.0, 123.0),
    std=(1.0, 1.0, 1.0),
)
"""Preprocessing of Caffe's SqueezeNets (BVLC's create_imagenet.sh warps every image to 256x256)."""


def imagenet_preprocessing(crop: int) -> Preprocessing:
    """The preprocessing of torchvision's ImageNet weights, for a crop of any size.

    The shorter side becomes 256/224 of the crop (Krizhevsky et al., 2012, section 2, for a crop of 224).
    """
    return Preprocessing(resize=round(crop * 256 / 224), crop=crop)
