"""From an image file to a network's input: bit depths, resizing, order of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distsqz.data.decoding import decode, prepare, resize_and_crop
from distsqz.errors import RunError
from distsqz.models.preprocessing import CAFFE, Preprocessing

RAMP = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
SCALED = np.rint(RAMP / 65_535 * 255)


def grey_values(path: Path) -> np.ndarray:
    """The one channel of a decoded image, after all three are found alike."""
    pixels = np.asarray(decode(path))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat(pixels[..., :1], 3, axis=2))
    return pixels[..., 0]


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
def test_16_bits_are_scaled_by_65535(tmp_path, name):
    Image.fromarray(RAMP).save(tmp_path / name)
    np.testing.assert_array_equal(grey_values(tmp_path / name), SCALED)


def test_16_bits_in_the_other_byte_order_are_scaled_likewise(tmp_path):
    Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes()).save(tmp_path / "ramp.tiff")
    np.testing.assert_array_equal(grey_values(tmp_path / "ramp.tiff"), SCALED)


def test_a_dark_16_bit_image_stays_dark(tmp_path):
    for name in ("dark.png", "dark.pgm"):
        Image.fromarray(RAMP // 16).save(tmp_path / name)
        assert grey_values(tmp_path / name).max() == 16


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize(("factor", "offset"), [(1, 0), (7, -100_000)])
def test_32_bits_are_scaled_from_their_least_to_their_greatest_value(tmp_path, kind, factor, offset):
    values = RAMP.astype(kind) * kind(factor) + kind(offset)
    Image.fromarray(values).save(tmp_path / "ramp.tif")
    np.testing.assert_array_equal(grey_values(tmp_path / "ramp.tif"), SCALED)


def test_floats_between_0_and_1_do_not_all_become_black(tmp_path):
    Image.fromarray((RAMP / 65_535).astype(np.float32)).save(tmp_path / "ramp.tif")
    np.testing.assert_allclose(grey_values(tmp_path / "ramp.tif"), SCALED, atol=1)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_of_a_single_value_are_black(tmp_path, kind):
    Image.fromarray(np.full((8, 8), 1000, kind)).save(tmp_path / "flat.tif")
    assert grey_values(tmp_path / "flat.tif").max() == 0


@pytest.mark.parametrize("content", [b"", b"no image", np.full((4, 4), np.nan, np.float32)])
def test_what_cannot_be_decoded_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "0.tif"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    with pytest.raises(RunError) as failed:
        decode(path)
    line = str(failed.value)
    assert line.startswith(f"{path}: this image cannot be decoded (")
    assert line.endswith("; replace or remove it")
    assert "\n" not in line


def halves(width: int, height: int) -> Image.Image:
    """The left half black, the right half white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def test_a_square_takes_in_the_whole_image_and_a_shorter_side_only_the_middle():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 16:-16] = 255  # the margins: an eighth of the width each
    image = Image.fromarray(stripes)
    warped = np.asarray(resize_and_crop(image, Preprocessing(resize_to="square", resize=64, crop=64)))
    kept = np.asarray(resize_and_crop(image, Preprocessing(resize_to="shorter side", resize=64, crop=64)))
    assert (warped[:, :7] == 0).all()
    assert (warped[:, 9:-9] == 255).all()
    assert (kept == 255).all()


@pytest.mark.parametrize("size", [(32, 32), (300, 200), (20, 301)])
@pytest.mark.parametrize("resize_to", ["square", "shorter side"])
def test_any_shape_gives_the_crop(size, resize_to):
    images = Preprocessing(resize_to=resize_to, resize=40, crop=32)
    assert resize_and_crop(halves(*size), images).size == (32, 32)


@pytest.mark.parametrize(("name", "least", "most"), [("nearest", 2, 2), ("bilinear", 3, 256)])
def test_the_filter_is_the_one_that_was_asked_for(name, least, most):
    images = Preprocessing(resize_to="square", resize=64, crop=64, filter=name)
    levels = np.unique(np.asarray(resize_and_crop(halves(8, 8), images)))
    assert least <= len(levels) <= most


def test_images_come_as_the_weights_expect_them():
    image = Image.new("RGB", (1, 1), (10, 20, 30))
    assert prepare([image], CAFFE).flatten().tolist() == [30 - 104, 20 - 117, 10 - 123]
    rgb = Preprocessing(mean=(0.5, 0, 0), std=(0.5, 1, 2))
    expected = [(10 / 255 - 0.5) / 0.5, 20 / 255, 30 / 255 / 2]
    assert prepare([image], rgb).flatten().tolist() == pytest.approx(expected)
