"""Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28, 10 classes (Xiao, Rasul, Vollgraf, 2017)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from distsqz.data.download import download_gzip
from distsqz.data.idx import read_idx
from distsqz.data.pixels import ArraySplit
from distsqz.data.split import ImageData, PixelStatistics, SourceError

CLASSES = 10
STATISTICS = PixelStatistics(mean=(0.2860,), std=(0.3530,))

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Directory of Debian's package dataset-fashion-mnist."""

OFFICIAL_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"

# Checksums of the unpacked files. Debian's files and the official ones differ only in their gzip headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def open_fashion_mnist(directory: Path | None, image_size: int) -> ImageData:
    """Opens Fashion-MNIST.

    Args:
        directory: the directory with its files; by default that of Debian's package, or a cache into which
            files are downloaded.
        image_size: height and width to which images are scaled, in pixels.

    Raises:
        SourceError: a file is missing, cannot be downloaded, or is not the published one; the message names
            it.
    """
    directory = directory or _find()
    train, validation = (_read_split(directory, part, image_size) for part in ("train", "t10k"))
    return ImageData("fashion-mnist", CLASSES, train, validation, STATISTICS.preprocessing(image_size))


def download(directory: Path, base_url: str = OFFICIAL_URL) -> None:
    """Downloads the files that a directory lacks.

    Raises:
        SourceError: a file cannot be downloaded, or is not the published one.
    """
    for name, contents_sha256 in SHA256.items():
        if _path(directory, name) is None:
            download_gzip(f"{base_url}/{name}.gz", directory / f"{name}.gz", contents_sha256)


def cache_directory() -> Path:
    """Directory of downloaded files (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distsqz" / "fashion-mnist"


def _find() -> Path:
    if all(_path(DEBIAN, name) for name in SHA256):
        return DEBIAN
    try:
        download(cache_directory())
    except SourceError as error:
        raise SourceError(
            f"{error}; install Debian's dataset-fashion-mnist, or give a directory with the four idx files as"
            " fashion-mnist:DIR"
        ) from error
    return cache_directory()


def _path(directory: Path, name: str) -> Path | None:
    """Path of a file, packed or not; None if neither exists."""
    return next((path for path in (directory / f"{name}.gz", directory / name) if path.exists()), None)


def _read_split(directory: Path, part: str, image_size: int) -> ArraySplit:
    images_path, labels_path = (
        _path(directory, name) or directory / f"{name}.gz"
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    )
    images, labels = read_idx(images_path, dimensions=3), read_idx(labels_path, dimensions=1)
    if len(images) != len(labels) or images.size == 0:
        raise SourceError(f"{labels_path}: {len(labels)} labels for the {len(images)} images beside it")
    if labels.max() >= CLASSES:
        raise SourceError(f"{labels_path}: holds label {labels.max()}, the highest is {CLASSES - 1}")
    return ArraySplit(images[:, np.newaxis], labels.astype(np.int64), STATISTICS, image_size)
