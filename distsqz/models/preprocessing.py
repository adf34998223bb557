"""What a trained model expects of its images: how they are resized, cropped and normalised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ResizeTo = Literal["shorter side", "square"]
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
"""Pillow's resampling filters."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a decoded image to what the weights were trained on; it travels with them."""

    channels: Literal["RGB", "BGR"] = "RGB"
    resize_to: ResizeTo = "shorter side"
    """shorter side keeps the image's proportions; square warps the whole image to a square."""
    resize: int = 256
    """Pixels of the shorter side, or of the square's sides, before cropping."""
    filter: Filter = "bilinear"
    """How an image is resampled when it is resized."""
    crop: int = 224
    """Height and width of the centre crop, in pixels; at most `resize`."""
    scale: float = 255.0
    """Pixels, from 0 to 255, are divided by this before the mean is taken off."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Mean and std: one a channel, in the order of `channels`."""

    def for_crop(self, crop: int) -> Preprocessing:
        """The same for a crop of another size in pixels; `resize` keeps its proportion to it."""
        return replace(self, resize=max(crop, round(self.resize * crop / self.crop)), crop=crop)


CAFFE = Preprocessing(
    channels="BGR",
    resize_to="square",
    crop=227,
    scale=1.0,
    mean=(104.0, 117.0, 123.0),
    std=(1.0, 1.0, 1.0),
)
"""What Caffe's SqueezeNets were trained on (BVLC's create_imagenet.sh warps every image to 256x256)."""


def imagenet_preprocessing(crop: int) -> Preprocessing:
    """The preprocessing of torchvision's ImageNet weights, for a crop of any size.

    The shorter side becomes 256/224 of the crop (Krizhevsky et al., 2012, section 2, for a crop of 224).
    """
    return Preprocessing(resize=round(crop * 256 / 224), crop=crop)
