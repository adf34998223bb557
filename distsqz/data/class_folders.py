"""Images in class folders: the files of each class, and counts of what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distsqz.data.split import SourceError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in upper or lower case."""


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """Image files below a folder, each with its class."""

    root: Path
    files: list[str]
    """Paths relative to `root`."""
    labels: NDArray[np.int64]
    """Class of each file, [n]."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, part: slice) -> LabelledFiles:
        return LabelledFiles(self.root, self.files[part], self.labels[part])

    @property
    def paths(self) -> list[Path]:
        """Paths of the files."""
        return [self.root / file for file in self.files]

    def spread(self, most: int) -> LabelledFiles:
        """Selects at most `most` files, spread evenly."""
        count = min(most, len(self))
        chosen = [index * len(self) // count for index in range(count)]
        return LabelledFiles(self.root, [self.files[index] for index in chosen], self.labels[chosen])


@dataclass(eq=False)
class LeftOut:
    """Numbers of files and folders that a scan leaves out."""

    other: Counter[str] = field(default_factory=Counter)
    """Files that are not images, by suffix in lower case."""
    hidden: int = 0
    """Files and folders whose names begin with a dot."""
    unlabelled: int = 0
    """Images that are not in a class folder."""

    def __add__(self, more: LeftOut) -> LeftOut:
        return LeftOut(self.other + more.other, self.hidden + more.hidden, self.unlabelled + more.unlabelled)

    def describe(self, source: str) -> str | None:
        """A line for the user that says what is left out of `source`; None if nothing is."""
        parts = []
        if count := self.other.total():
            kinds = ", ".join(f"{suffix or 'no suffix'} {n}" for suffix, n in self.other.most_common())
            parts.append(
                f"{count} file{'s that are no images' if count > 1 else ' that is no image'} ({kinds})"
            )
        if count := self.unlabelled:
            parts.append(f"{count} image{'s' if count > 1 else ''} outside of the class folders")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        return f"left out of {source}: {', '.join(parts)}" if parts else None


@dataclass(frozen=True, eq=False)
class Scan:
    """Result of scanning a folder of class folders."""

    images: LabelledFiles
    """Images, ordered by class and then by name."""
    empty: list[str]
    """Classes that have a folder but no image."""
    left_out: LeftOut


def class_names(directory: Path) -> list[str]:
    """Names of the class folders in a directory, sorted.

    Raises:
        SourceError: the directory cannot be read, or has no class folders.
    """
    names = sorted(entry.name for entry in _entries(directory) if entry.is_dir() and not _is_hidden(entry))
    if not names:
        raise SourceError(f"{directory}: no class folders; images belong in {directory}/<class>/")
    return names


def scan(directory: Path, classes: Sequence[str], source: Path) -> Scan:
    """Finds the images in the class folders of a directory, and in folders within them.

    Hidden files and folders are skipped.

    Args:
        directory: the directory.
        classes: names of the classes. Their positions are the labels. Not every class needs a folder.
        source: the folder that defines the classes, for errors.

    Raises:
        SourceError: a folder cannot be read, or belongs to none of the classes.
    """
    number = {name: index for index, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    empty, left_out = [], LeftOut()
    for entry in _entries(directory):
        if _is_hidden(entry):
            left_out.hidden += 1
        elif not entry.is_dir():
            if _is_image(entry):
                left_out.unlabelled += 1
            else:
                left_out.other[_suffix(entry)] += 1
        elif entry.name not in number:
            raise SourceError(f"{directory / entry.name}: a class that {source} does not have")
        else:
            images = sorted(_walk(directory / entry.name, entry.name, left_out))
            files += images
            labels += [number[entry.name]] * len(images)
            if not images:
                empty.append(entry.name)
    return Scan(LabelledFiles(directory, files, np.array(labels, np.int64)), empty, left_out)


def _walk(
    directory: Path, prefix: str, left_out: LeftOut, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Images in `directory` and below, prefixed by `prefix`; `above` identifies the parent directories."""
    status = directory.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a symbolic link to a parent
        return
    for entry in _entries(directory):
        if _is_hidden(entry):
            left_out.hidden += 1
        elif entry.is_dir():
            yield from _walk(directory / entry.name, f"{prefix}/{entry.name}", left_out, above | {identity})
        elif _is_image(entry):
            yield f"{prefix}/{entry.name}"
        else:
            left_out.other[_suffix(entry)] += 1


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"{directory}: {error.strerror}; images belong in class folders") from error


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".")


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is named like an image; broken links count, so that reading them fails."""
    return _suffix(entry) in SUFFIXES and (entry.is_file() or entry.is_symlink())


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # millions of names
