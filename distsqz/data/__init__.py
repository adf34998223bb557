"""Sources of labelled images, and the batches that each rank reads from them."""

from __future__ import annotations

import functools
from pathlib import Path

from distsqz.data.batches import evaluation_batches, steps_per_epoch, train_batches
from distsqz.data.cifar10 import open_cifar10
from distsqz.data.fashion_mnist import open_fashion_mnist
from distsqz.data.split import Batch, ImageData, SourceError, Split
from distsqz.data.synthetic import open_synthetic
from distsqz.errors import InvalidValue
from distsqz.models.preprocessing import Preprocessing

__all__ = [
    "Batch",
    "ImageData",
    "Split",
    "absolute_spec",
    "evaluation_batches",
    "open_data",
    "steps_per_epoch",
    "train_batches",
]


KNOWN = "synthetic, fashion-mnist, fashion-mnist:DIR, cifar10:DIR or imagefolder:PATH"


@functools.lru_cache(maxsize=1)  # all cells of a session train on the same images
def open_data(
    spec: str,
    *,
    image_size: int,
    seed: int,
    num_classes: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageData:
    """Opens a source of labelled images and checks its files.

    Args:
        spec: synthetic, fashion-mnist, fashion-mnist:DIR, cifar10:DIR or imagefolder:PATH.
        image_size: height and width of the images, in pixels.
        seed: seed of synthetic images and of their labels.
        num_classes: classes of synthetic labels (by default 1000); the most classes that other sources may
            have.
        preprocessing: how the images of a folder are prepared, by default as for torchvision's ImageNet
            weights. The other sources have preprocessing of their own.

    Raises:
        InvalidValue: there is no such source, its files are missing or damaged, or it has more classes.
    """
    if image_size < 1:
        raise InvalidValue("image_size", image_size, "must be at least 1 pixel")
    if seed < 0:
        raise InvalidValue("seed", seed, "must be 0 or more")
    source, _, place = absolute_spec(spec).partition(":")
    try:
        match source, Path(place) if place else None:
            case "synthetic", None:
                return open_synthetic(image_size, seed, num_classes)
            case "fashion-mnist", directory:
                data = open_fashion_mnist(directory, image_size)
            case "cifar10", Path() as directory:
                data = open_cifar10(directory, image_size)
            case "imagefolder", Path() as directory:
                from distsqz.data.image_folder import open_image_folder  # alone needs Pillow

                data = open_image_folder(directory, image_size, preprocessing)
            case _:
                raise SourceError(f"not known or not complete; give {KNOWN}")
    except SourceError as error:
        raise InvalidValue("data", spec, str(error)) from error
    if num_classes is not None and num_classes < data.num_classes:
        raise InvalidValue(
            "num_classes", num_classes, f"{data.name} has {data.num_classes} classes; give at least as many"
        )
    return data


def absolute_spec(spec: str) -> str:
    """A source with an absolute path, so that a process in another directory opens the same files."""
    source, colon, place = spec.partition(":")
    try:
        return f"{source}:{Path(place).expanduser().absolute()}" if place else f"{source}{colon}"
    except RuntimeError as error:  # no such user's home
        raise InvalidValue("data", spec, f"{error}; give the directory itself") from error
