"""Labelled images for calibration and evaluation, prepared as the weights expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from distsqz.data import evaluation_batches
from distsqz.data.class_folders import LabelledFiles, LeftOut, class_names, scan
from distsqz.data.image_folder import FolderSplit
from distsqz.data.split import SourceError
from distsqz.errors import InvalidValue
from distsqz.models.preprocessing import Preprocessing
from distsqz.weights.quantised import ModelInfo

BATCH = 20
"""Images in a batch."""
MOST_DIGITS = 9
"""Maximum number of digits of a class in the name of a file."""


def find_images(directory: Path) -> tuple[LabelledFiles, LeftOut]:
    """Finds the images in class folders, in `directory` or in its `val`; counts what is left out.

    Classes are numbered by the order of their folders' names, as in ImageNet. If `train` lies beside `val`,
    its folders define the classes. Otherwise the folders themselves do, with one exception: if every class
    folder has one image and each is named by a different whole number (`207.jpg`), this number is its class.

    Raises:
        InvalidValue: there are no images, or a class that `train` does not have.
    """
    root = directory / "val" if (directory / "val").is_dir() else directory
    train = root.absolute().parent / "train"
    try:
        if root.absolute().name == "val" and train.is_dir():
            scanned = scan(root, class_names(train), train)
            images = scanned.images
        else:
            names = class_names(root)
            if "train" in names and set(names) <= {"test", "train"}:
                raise SourceError(f"{root} has no val beside train; give the folder that holds the classes")
            scanned = scan(root, names, root)
            images = _numbered_by_name(scanned.images)
    except SourceError as error:
        raise InvalidValue("directory", directory, str(error)) from error
    if not len(images):
        raise InvalidValue("directory", directory, f"no images; they belong in {root}/<class>/")
    return images, scanned.left_out


def _numbered_by_name(images: LabelledFiles) -> LabelledFiles:
    """The images, with the classes in the names of their files if the names hold any."""
    stems = {path.stem for path in images.paths if path.stem.isdecimal() and len(path.stem) <= MOST_DIGITS}
    alone = len(np.unique(images.labels)) == len(images)
    if not (alone and len(stems) == len(images)):
        return images
    return replace(images, labels=np.array([int(path.stem) for path in images.paths], np.int64))


def check_labels(labels: Tensor, info: ModelInfo, field: str, value: object) -> None:
    """Checks that the model knows the class of every image.

    Args:
        labels: int64 [n].
        info: the model.
        field: the option or parameter that the images come from, for example "calibration".
        value: the value of `field`.

    Raises:
        InvalidValue: a label is not below the model's number of classes.
    """
    if (largest := int(labels.max())) >= info.num_classes:
        raise InvalidValue(
            field,
            value,
            f"holds class {largest}, {info.name} in these weights tells {info.num_classes} apart, counted "
            "from 0",
        )


def labelled_batches(images: LabelledFiles, preprocessing: Preprocessing) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of centre crops [at most 20, 3, crop, crop], in order, and their labels int64 [n].

    Raises:
        RunError: (while iterating) an image cannot be decoded; the message names the file.
    """
    split = FolderSplit(images, preprocessing)
    return evaluation_batches(split, rank=0, world_size=1, batch_size=BATCH, loader_workers=0)


def batches(images: LabelledFiles, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """The batches of `labelled_batches`, without labels."""
    return (pixels for pixels, _labels in labelled_batches(images, preprocessing))
