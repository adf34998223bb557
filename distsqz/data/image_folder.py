"""A folder of images in ImageNet's usual layout: train/<class>/*.jpg and perhaps val/<class>/*.jpg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distsqz.data.pixels import normalise
from distsqz.data.split import Batch, ImageData, SourceError, Statistics
from distsqz.errors import RunError

STATISTICS = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""ImageNet's, for which published weights of both models were trained."""

SUFFIXES = (".jpg", ".jpeg", ".png")
SHORTER_SIDE_PER_CROP = 256 / 224


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Images on disk, decoded anew for each batch."""

    root: Path
    files: list[str]
    """Relative to `root`."""
    labels: NDArray[np.int64]
    image_size: int
    loader_workers: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:
        """The images at `indices`, decoded, resized and cropped (see `Split`)."""
        pixels = np.empty((len(indices), 3, self.image_size, self.image_size), np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = _decode(self.root / self.files[index], self.image_size)
        return normalise(pixels, flips, STATISTICS), torch.from_numpy(self.labels[indices])


def open_image_folder(root: Path, image_size: int) -> ImageData:
    """The folders train and val (optional) of `root`; classes are numbered by the order of their names.

    Raises:
        SourceError: no train folder, no class folders in it, no images in one, or a class that only val has.
    """
    classes = _class_names(root / "train")
    train = _open_split(root / "train", classes, classes, image_size)
    validation = None
    if (root / "val").is_dir():
        present = _class_names(root / "val")
        if unknown := sorted(set(present) - set(classes)):
            raise SourceError(f"{root / 'val' / unknown[0]}: a class that {root / 'train'} does not have")
        validation = _open_split(root / "val", present, classes, image_size)
    return ImageData("imagefolder", len(classes), train, validation, STATISTICS)


def _class_names(directory: Path) -> list[str]:
    try:
        names = sorted(path.name for path in directory.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise SourceError(f"{directory}: {error.strerror}; images belong in {directory}/<class>/") from error
    if not names:
        raise SourceError(f"{directory}: no class folders; images belong in {directory}/<class>/")
    return names


def _open_split(directory: Path, present: list[str], classes: list[str], image_size: int) -> FolderSplit:
    number = {name: index for index, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    for name in present:
        try:
            files_there = list((directory / name).iterdir())
        except OSError as error:
            raise SourceError(f"{directory / name}: {error.strerror}") from error
        found = sorted(file.name for file in files_there if file.suffix.lower() in SUFFIXES)
        if not found:
            raise SourceError(f"{directory / name}: no images; they end in {', '.join(SUFFIXES)}")
        files += [f"{name}/{file}" for file in found]
        labels += [number[name]] * len(found)
    return FolderSplit(directory, files, np.array(labels, np.int64), image_size)


def _decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """The middle of an image, [3, image_size, image_size].

    The shorter side becomes 256/224 of the crop (Krizhevsky et al., 2012, section 2, for a crop of 224).
    """
    try:
        with Image.open(path) as stored:
            image = stored.convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever they run into, not only OSError
        raise RunError(f"{path}: this image cannot be decoded ({error}); replace or remove it") from error
    scale = round(image_size * SHORTER_SIDE_PER_CROP) / min(image.size)
    width, height = (max(image_size, round(side * scale)) for side in image.size)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image).transpose(2, 0, 1)
