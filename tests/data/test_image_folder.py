"""Image folders: their classes, the crop, and what is missing from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distsqz.data import evaluation_batches, open_data
from distsqz.errors import RequestError, RunError
from distsqz.models.preprocessing import Preprocessing

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
COLOUR = (200, 100, 50)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def save(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), COLOUR).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Classes ant (3 images), bee (2) and cat (3) to train on, bee (1) and cat (1) to validate."""
    for name, suffixes in {"bee": ("png", "JPEG"), "cat": ("jpg",) * 3, "ant": ("jpg", "png", "PNG")}.items():
        for number, suffix in enumerate(suffixes):
            save(tmp_path / "train" / name / f"{number}.{suffix}")
    for name in ("cat", "bee"):
        save(tmp_path / "val" / name / "0.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def refusal(root: Path) -> str:
    with pytest.raises(RequestError) as refused:
        open_data(f"imagefolder:{root}", image_size=16, seed=0)
    line = str(refused.value)
    assert line.startswith(f"data imagefolder:{root}: ")
    assert "\n" not in line
    return line


def test_classes_are_numbered_by_name_alike_in_train_and_val(folder):
    data = open_data(f"imagefolder:{folder}", image_size=16, seed=0)
    assert data.validation is not None
    assert data.num_classes == 3
    train, validation = (
        torch.cat([labels for _, labels in batches]).tolist()
        for batches in (
            evaluation_batches(split, rank=0, world_size=1, batch_size=4, loader_workers=0)
            for split in (data.train, data.validation)
        )
    )
    assert train == [0, 0, 0, 1, 1, 2, 2, 2]
    assert validation == [1, 2]


def test_a_folder_without_val_has_no_validation_split(tmp_path):
    save(tmp_path / "train" / "ant" / "0.png")
    assert open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0).validation is None


def files_of(split) -> list[str]:
    return split.images.files


def test_images_are_found_in_folders_within_a_class_and_by_every_suffix_in_any_case(tmp_path):
    suffixes = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp")
    names = [f"{index}.{suffix}" for index, suffix in enumerate(suffixes)]
    for name in [*names, *map(str.upper, names)]:
        save(tmp_path / "train" / "ant" / "images" / name)
    save(tmp_path / "train" / "bee" / "0.png")
    data = open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0)
    expected = sorted(f"ant/images/{name}" for name in {*names, *map(str.upper, names)})
    assert files_of(data.train) == [*expected, "bee/0.png"]
    assert data.train.batch(np.arange(19), np.zeros(19, np.bool_))[1].tolist() == [0] * 18 + [1]
    assert data.left_out is None


def test_hidden_files_and_folders_and_folders_named_like_images_are_no_images(tmp_path):
    save(tmp_path / "train" / "ant" / "0.jpg")
    (tmp_path / "train" / "ant" / "._0.jpg").write_bytes(b"resource fork")
    save(tmp_path / "train" / "ant" / ".thumbnails" / "0.jpg")
    save(tmp_path / "train" / ".trash" / "0.jpg")
    (tmp_path / "train" / "ant" / "thumbs.jpg").mkdir()
    data = open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0)
    assert files_of(data.train) == ["ant/0.jpg"]
    assert data.left_out == f"left out of imagefolder:{tmp_path}: 3 hidden"


def test_what_is_left_out_of_both_splits_is_said_with_its_number(folder):
    for name in ("train/ant/a.TXT", "val/bee/b.npy", "val/README"):
        (folder / name).touch()
    save(folder / "train" / "stray.png")
    line = open_data(f"imagefolder:{folder}", image_size=16, seed=0).left_out
    assert line == (
        f"left out of imagefolder:{folder}: 4 files that are no images (.txt 2, no suffix 1, .npy 1),"
        " 1 image outside of the class folders, 1 hidden"
    )


def test_a_link_that_leads_back_is_not_followed_for_ever(tmp_path):
    save(tmp_path / "train" / "ant" / "0.jpg")
    (tmp_path / "train" / "ant" / "again").symlink_to(tmp_path / "train" / "ant")
    assert files_of(open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0).train) == ["ant/0.jpg"]


def test_a_link_to_a_class_folder_is_followed_and_one_that_leads_nowhere_fails_by_name(tmp_path):
    save(tmp_path / "store" / "0.jpg")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "ant").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "1.jpg").symlink_to(tmp_path / "lost.jpg")
    split = open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0).train
    split.batch(np.array([0]), np.array([False]))
    with pytest.raises(RunError, match=r"ant/1\.jpg: this image cannot be decoded"):
        split.batch(np.array([1]), np.array([False]))


@pytest.mark.parametrize(("image_size", "resize"), [(32, 37), (224, 256)])
def test_how_images_are_prepared_goes_with_them(folder, image_size, resize):
    data = open_data(f"imagefolder:{folder}", image_size=image_size, seed=0)
    assert data.preprocessing == Preprocessing(resize=resize, crop=image_size)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (300, 200), (200, 301), (7, 900), (5, 5)])
@pytest.mark.parametrize("image_size", [16, 224])
def test_any_shape_becomes_a_square_of_the_normalised_colour(tmp_path, width, height, image_size):
    save(tmp_path / "train" / "ant" / "0.png", width, height)
    split = open_data(f"imagefolder:{tmp_path}", image_size=image_size, seed=0).train
    images, _ = split.batch(np.array([0]), np.array([True]))
    colour = torch.tensor(COLOUR).view(3, 1, 1) / 255
    torch.testing.assert_close(images[0], ((colour - MEAN) / STD).expand(3, image_size, image_size))


def test_the_crop_is_the_middle_224_of_256(tmp_path):
    # Black, but for the frame that the crop should just leave out: 16 of 256 pixels on each side.
    pixels = np.full((512, 512, 3), 255, np.uint8)
    pixels[32:-32, 32:-32] = 0
    (tmp_path / "train" / "ant").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train" / "ant" / "0.png")
    split = open_data(f"imagefolder:{tmp_path}", image_size=224, seed=0).train
    images, _ = split.batch(np.array([0]), np.array([False]))
    black = (-MEAN / STD).expand(3, 224, 224)
    torch.testing.assert_close(images[0, :, 1:-1, 1:-1], black[:, 1:-1, 1:-1])


def test_a_flipped_image_is_the_mirror_image(tmp_path):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "train" / "ant" / "0.png")
    split = open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0).train
    images, _ = split.batch(np.array([0, 0]), np.array([False, True]))
    assert torch.equal(images[1], images[0].flip(2))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_other_colour_modes_become_three_channels(tmp_path, mode):
    path = tmp_path / "train" / "ant" / ("0.jpg" if mode == "CMYK" else "0.png")
    path.parent.mkdir(parents=True)
    Image.new(mode, (20, 20)).save(path)
    split = open_data(f"imagefolder:{tmp_path}", image_size=16, seed=0).train
    assert split.batch(np.array([0]), np.array([False]))[0].shape == (1, 3, 16, 16)


def test_what_is_missing_is_named(tmp_path):
    assert f"{tmp_path}/train: No such file or directory" in refusal(tmp_path)
    (tmp_path / "train").mkdir()
    assert f"{tmp_path}/train: no class folders" in refusal(tmp_path)
    (tmp_path / "train" / "ant").mkdir()
    assert f"{tmp_path}/train/ant: no images" in refusal(tmp_path)


def test_a_class_that_only_val_has_is_refused(folder):
    save(folder / "val" / "dog" / "0.png")
    assert f"{folder}/val/dog: a class that {folder}/train does not have" in refusal(folder)
