"""Labelled images for calibration and evaluation, prepared as the weights expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distsqz.compression.quantised import ModelInfo, Preprocessing
from distsqz.data.image_folder import SUFFIXES
from distsqz.errors import RequestError, RunError

BATCH = 20
MOST_DIGITS = 9
"""Of a class; a longer number is not one."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Files on disk, and the class of each."""

    paths: list[Path]
    labels: Tensor
    """[n] of int64."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> LabelledImages:
        return LabelledImages(self.paths[part], self.labels[part])

    def spread(self, most: int) -> LabelledImages:
        """At most so many of them, evenly spread."""
        count = min(most, len(self))
        chosen = [index * len(self) // count for index in range(count)]
        return LabelledImages([self.paths[index] for index in chosen], self.labels[chosen])


def find_images(directory: Path, option: str = "--calibration") -> LabelledImages:
    """The images of a folder with a folder a class, or of its `val` where it has one.

    Classes are numbered by the order of their folders' names, as in ImageNet. Where a set has only some of
    the classes, its files may tell: if every folder has one image, each named by a whole number of its own
    (`207.jpg`), that is its class.

    Raises:
        RequestError: there are no images; it names `option`.
    """
    root = directory / "val" if (directory / "val").is_dir() else directory
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise RequestError(f"{option} {directory}: {error.strerror}; give class folders") from error
    paths = [
        sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES) for folder in folders
    ]
    files = [file for folder in paths for file in folder]
    if not files:
        raise RequestError(f"{option} {directory}: no images; they belong in {root}/<class>/")
    stems = {file.stem for file in files if file.stem.isdecimal() and len(file.stem) <= MOST_DIGITS}
    if len(stems) == len(files) and all(len(folder) <= 1 for folder in paths):
        labels = [int(file.stem) for file in files]
    else:
        labels = [number for number, folder in enumerate(paths) for _ in folder]
    return LabelledImages(files, torch.tensor(labels))


def check_labels(labels: Tensor, info: ModelInfo, told: str) -> None:
    """Raises RequestError, beginning with `told`, where the model does not know one of the classes."""
    if (largest := int(labels.max())) >= info.num_classes:
        raise RequestError(
            f"{told}: holds class {largest}, {info.name} in these weights tells {info.num_classes} apart, "
            "counted from 0"
        )


def batches(images: LabelledImages, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """Centre crops in order, [at most 20, 3, crop, crop] at a time."""
    for start in range(0, len(images), BATCH):
        centres = [_centre(open_image(path), preprocessing) for path in images.paths[start : start + BATCH]]
        yield torch.stack([prepare(centre, preprocessing) for centre in centres])


def open_image(path: Path) -> Image.Image:
    """Decoded, in colour.

    Raises:
        RunError: it cannot be.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise RunError(f"{path}: cannot be decoded ({type(error).__name__})") from error


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """[3, height, width] of what the weights were trained on, from an image that has its final size."""
    pixels = np.asarray(image, np.float32)
    if preprocessing.channels == "BGR":
        pixels = pixels[..., ::-1]
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    return torch.from_numpy(((pixels / preprocessing.scale - mean) / std).transpose(2, 0, 1).copy())


def _centre(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    if shorter != preprocessing.resize:
        scale = preprocessing.resize / shorter
        width, height = round(width * scale), round(height * scale)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - preprocessing.crop) // 2, (height - preprocessing.crop) // 2
    return image.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
