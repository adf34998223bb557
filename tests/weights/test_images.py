"""Images to calibrate and judge by: their classes, their views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from distsqz.errors import RequestError
from distsqz.models.preprocessing import Preprocessing, ResizeTo
from distsqz.weights.crops import random_crops
from distsqz.weights.images import batches, find_images


def write_images(root: Path, files: list[str]) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / file)


def labels(root: Path) -> list[int]:
    return find_images(root)[0].labels.tolist()


def test_images_alone_in_their_folders_and_named_by_a_number_are_of_that_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["n01/207.png", "n02/3.png"])
    assert labels(tmp_path) == [207, 3]


@pytest.mark.parametrize(
    "files",
    [
        ["n01/207.png", "n01/3.png", "n02/5.png"],
        ["n01/207.png", "n02/x.png"],
        ["n01/0.png", "n02/0.png"],
        ["n01/12345678901234567890.png", "n02/1.png"],
    ],
)
def test_else_images_are_of_the_class_of_their_folder(files: list[str], tmp_path: Path) -> None:
    write_images(tmp_path / "val", files)
    assert labels(tmp_path) == [int(file[2]) - 1 for file in files]


def test_a_folder_without_images_does_not_count(tmp_path: Path) -> None:
    write_images(tmp_path, ["n01/207.png", "n03/3.png"])
    (tmp_path / "n02").mkdir()
    assert labels(tmp_path) == [207, 3]


@pytest.mark.parametrize("place", [".", "val"])
def test_classes_are_trains_where_val_has_only_some_of_them(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, [f"train/{name}/0.png" for name in ("blue", "green", "red")])
    write_images(tmp_path, ["val/blue/7.png", "val/red/8.png"])  # numbers of their own tell nothing here
    assert labels(tmp_path / place) == [0, 2]
    monkeypatch.chdir(tmp_path / place)
    assert labels(Path()) == [0, 2]


def test_a_class_that_only_val_has_is_refused_by_name(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/blue/0.png", "val/blue/0.png", "val/pink/0.png"])
    with pytest.raises(RequestError, match=r"directory .*/val/pink: a class that .*/train does not have"):
        find_images(tmp_path)


def test_a_folder_of_splits_without_val_is_not_taken_for_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/blue/0.png", "train/red/0.png"])
    with pytest.raises(RequestError, match="no val beside train"):
        find_images(tmp_path)
    assert labels(tmp_path / "train") == [0, 1]


def test_a_folder_without_any_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n01").mkdir()
    with pytest.raises(RequestError, match=r"directory .*: no images; they belong in "):
        find_images(tmp_path)


@pytest.mark.parametrize(("resize_to", "expected"), [("square", 2 / 3), ("shorter side", 1)])
def test_views_are_warped_where_the_images_are(resize_to: ResizeTo, expected: float, tmp_path: Path) -> None:
    """Width over height of a disc on an image of 3 to 2: in views between 3/4 and 4/3 times the centre's."""
    x, y = np.meshgrid(np.arange(300) - 150, np.arange(200) - 100)
    disc = np.where(x**2 + y**2 < 30**2, 255, 0).astype(np.uint8)
    (tmp_path / "n01").mkdir()
    Image.fromarray(disc).save(tmp_path / "n01" / "a.png")
    images, _ = find_images(tmp_path)
    asked = Preprocessing(resize_to=resize_to, resize=128, crop=128, mean=(0, 0, 0), std=(1, 1, 1))
    ((centre,),) = batches(images, asked)
    assert width_over_height(centre) == pytest.approx(expected, rel=0.06)
    views = [view for batch in random_crops(images.paths, asked, per_image=60) for view in batch]
    whole = [view for view in views if not (view[0, [0, -1]].any() or view[0, :, [0, -1]].any())]
    ratios = [width_over_height(view) for view in whole]
    assert len(ratios) > 30
    assert 0.7 * expected < min(ratios) < max(ratios) < 1.4 * expected
    assert np.exp(np.log(ratios).mean()) == pytest.approx(expected, rel=0.12)


def width_over_height(view: Tensor) -> float:
    white = view[0] > 0.5
    return (white.any(0).sum() / white.any(1).sum()).item()
