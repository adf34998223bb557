"""CIFAR-10: 50,000 + 10,000 colour images of 32 x 32, 10 classes, in its python or its binary layout.

Both are described at www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsqz.data.pixels import ArraySplit
from distsqz.data.split import ImageData, PixelStatistics, SourceError

CLASSES = 10
STATISTICS = PixelStatistics(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

IMAGES_PER_FILE = 10_000
SHAPE = (3, 32, 32)
PIXEL_BYTES = 3 * 32 * 32
TRAIN_FILES = [f"data_batch_{number}" for number in range(1, 6)]
TEST_FILE = "test_batch"

Records = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Labels [IMAGES_PER_FILE] and pixels [IMAGES_PER_FILE, PIXEL_BYTES] of one file."""


def open_cifar10(directory: Path, image_size: int) -> ImageData:
    """Opens CIFAR-10.

    Args:
        directory: the directory of its files, or the one into which the published archive was unpacked.
        image_size: height and width to which images are scaled, in pixels.

    Raises:
        SourceError: neither layout is present, or a file is missing or damaged; the message names it.
    """
    folder, suffix, read = _layout(directory)

    def split(names: list[str]) -> ArraySplit:
        files = [_checked(folder / f"{name}{suffix}", read) for name in names]
        labels = np.concatenate([labels for labels, _ in files]).astype(np.int64)
        pixels = np.concatenate([pixels for _, pixels in files]).reshape(-1, *SHAPE)
        return ArraySplit(pixels, labels, STATISTICS, image_size)

    preprocessing = STATISTICS.preprocessing(image_size)
    return ImageData("cifar10", CLASSES, split(TRAIN_FILES), split([TEST_FILE]), preprocessing)


def _layout(directory: Path) -> tuple[Path, str, Callable[[Path], Records]]:
    """The folder of the files, their suffix, and the function that reads them."""
    for archive, suffix, read in (
        ("cifar-10-batches-py", "", _read_python),
        ("cifar-10-batches-bin", ".bin", _read_binary),
    ):
        for folder in (directory, directory / archive):
            if any((folder / f"{name}{suffix}").is_file() for name in [*TRAIN_FILES, TEST_FILE]):
                return folder, suffix, read
    raise SourceError(
        f"{directory} has no data_batch_1 and no data_batch_1.bin, nor has a cifar-10-batches-py or"
        " cifar-10-batches-bin in it"
    )


def _checked(path: Path, read: Callable[[Path], Records]) -> Records:
    try:
        labels, pixels = read(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    if labels.max() >= CLASSES:
        raise SourceError(f"{path}: holds label {labels.max()}, the highest is {CLASSES - 1}")
    return labels, pixels


def _read_binary(path: Path) -> Records:
    contents = np.fromfile(path, np.uint8)
    expected_bytes = IMAGES_PER_FILE * (1 + PIXEL_BYTES)
    if contents.size != expected_bytes:
        raise SourceError(f"{path}: {contents.size} bytes long, should be {expected_bytes}")
    records = contents.reshape(IMAGES_PER_FILE, 1 + PIXEL_BYTES)
    return records[:, 0], records[:, 1:]


def _read_python(path: Path) -> Records:
    with path.open("rb") as file:
        try:
            entries = _InertUnpickler(file, encoding="bytes").load()
            labels = np.array(_entry(entries, "labels"), np.uint8)
            pixels = np.frombuffer(_entry(entries, "data").contents, np.uint8)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise SourceError(f"{path}: truncated, or not a batch of CIFAR-10 ({error})") from error
    if labels.shape != (IMAGES_PER_FILE,) or pixels.size != IMAGES_PER_FILE * PIXEL_BYTES:
        raise SourceError(
            f"{path}: {labels.size} labels and {pixels.size} bytes of pixels,"
            f" should be {IMAGES_PER_FILE} and {IMAGES_PER_FILE * PIXEL_BYTES}"
        )
    return labels, pixels.reshape(IMAGES_PER_FILE, PIXEL_BYTES)


def _entry(entries: dict[bytes | str, Any], key: str) -> Any:
    """An entry of a batch, under a key that Python 2 wrote as bytes and Python 3 may write as text."""
    return entries[key.encode() if key.encode() in entries else key]


class _Inert:
    """Stands for every object that a pickle names. It only stores the bytes of arrays."""

    contents: bytes = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # numpy.ndarray's state ends in its raw bytes, numpy.dtype's in a flag (numpy, ndarray.__reduce__).
        if isinstance(state[-1], bytes):
            self.contents = state[-1]


class _InertUnpickler(pickle.Unpickler):
    """Unpickles without running any code that the pickle names.

    A batch of CIFAR-10 is a dict of lists, strings and one numpy array; numpy's three names map to `_Inert`.
    """

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Inert
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of CIFAR-10")
