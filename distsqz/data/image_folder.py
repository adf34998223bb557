"""Image folders in the usual layout of ImageNet: train/<class>/ and optionally val/<class>/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distsqz.data.class_folders import SUFFIXES, LabelledFiles, Scan, class_names, scan
from distsqz.data.decoding import decode, prepare, resize_and_crop
from distsqz.data.split import Batch, ImageData, SourceError
from distsqz.models.preprocessing import Preprocessing, imagenet_preprocessing


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Images on disk, which are decoded for each batch."""

    images: LabelledFiles
    preprocessing: Preprocessing
    loader_workers: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: NDArray[np.int64], flips: NDArray[np.bool_]) -> Batch:
        """The images at `indices`, decoded, resized and cropped (see `Split`)."""
        pixels = [self._pixels(int(index), bool(flip)) for index, flip in zip(indices, flips, strict=True)]
        return prepare(pixels, self.preprocessing), torch.from_numpy(self.images.labels[indices])

    def _pixels(self, index: int, flip: bool) -> Image.Image:
        decoded = decode(self.images.root / self.images.files[index])
        image = resize_and_crop(decoded, self.preprocessing)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def open_image_folder(root: Path, image_size: int, preprocessing: Preprocessing | None = None) -> ImageData:
    """Opens the folders train and val (optional) of `root`. Classes are those of train, sorted by name.

    Args:
        root: the folder.
        image_size: height and width of the crops, in pixels.
        preprocessing: preprocessing of the images, by default that of torchvision's ImageNet weights.

    Raises:
        SourceError: there is no train folder, it has no class folders, a class has no images, or only val has
            it.
    """
    preprocessing = (preprocessing or imagenet_preprocessing(image_size)).for_crop(image_size)
    classes = class_names(root / "train")
    scans = [_full_scan(root / "train", classes, root / "train")]
    if (root / "val").is_dir():
        class_names(root / "val")
        scans.append(_full_scan(root / "val", classes, root / "train"))
    train, *validation = [FolderSplit(each.images, preprocessing) for each in scans]
    left_out = sum((each.left_out for each in scans[1:]), scans[0].left_out)
    return ImageData(
        name="imagefolder",
        num_classes=len(classes),
        train=train,
        validation=validation[0] if validation else None,
        preprocessing=preprocessing,
        left_out=left_out.describe(f"imagefolder:{root}"),
    )


def _full_scan(directory: Path, classes: list[str], source: Path) -> Scan:
    scanned = scan(directory, classes, source)
    if scanned.empty:
        raise SourceError(f"{directory / scanned.empty[0]}: no images; they end in {', '.join(SUFFIXES)}")
    return scanned
