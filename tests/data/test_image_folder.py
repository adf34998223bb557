"""Image folders: their classes, the crop, and what is missing from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distsqz.data import evaluation_batches, open_data
from distsqz.errors import RequestError

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
    assert line.startswith(f"--data imagefolder:{root}: ")
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
