"""CIFAR-10 in both of its layouts, and pickles that are something else."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from distsqz.data import open_data
from distsqz.errors import RequestError

NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (10_000, 3072), np.uint8)
LABELS = RNG.integers(0, 10, 10_000, np.uint8)


def as_python_2_wrote_it() -> bytes:
    """The opcodes of a published batch: protocol 2, with Python 2's strings and numpy's old module names."""
    labels = b"".join(b"K" + bytes([label]) for label in LABELS)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01M\x10'M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", PIXELS.size) + PIXELS.tobytes() + b"tb"
    )
    return b"\x80\x02}(U\x06labels](" + labels + b"eU\x04data" + array + b"u."


def as_records() -> bytes:
    return np.concatenate([LABELS[:, np.newaxis], PIXELS], axis=1).tobytes()


def make(folder: Path, suffix: str, contents: bytes) -> None:
    """Six files of the same contents, as links to one, so that they cost no time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "original").write_bytes(contents)
    for name in NAMES:
        (folder / f"{name}{suffix}").symlink_to("original")


def refusal(directory: Path) -> str:
    with pytest.raises(RequestError) as refused:
        open_data(f"cifar10:{directory}", image_size=32, seed=0)
    line = str(refused.value)
    assert line.startswith(f"data cifar10:{directory}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("folder", "suffix", "contents"),
    [
        ("cifar-10-batches-py", "", as_python_2_wrote_it()),
        (".", "", pickle.dumps({b"data": PIXELS, b"labels": LABELS.tolist()}, protocol=4)),
        ("cifar-10-batches-bin", ".bin", as_records()),
        (".", ".bin", as_records()),
    ],
    ids=["python", "python-saved-again", "binary", "binary-itself"],
)
def test_both_layouts_give_the_same_images(tmp_path, folder, suffix, contents):
    make(tmp_path / folder, suffix, contents)
    data = open_data(f"cifar10:{tmp_path}", image_size=32, seed=0)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), data.num_classes) == (50_000, 10_000, 10)
    images, labels = data.train.batch(np.array([7, 49_999]), np.zeros(2, np.bool_))
    assert labels.tolist() == LABELS[[7, 9_999]].tolist()
    mean, std = np.array([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]])[..., np.newaxis, np.newaxis]
    expected = (PIXELS[[7, 9_999]].reshape(2, 3, 32, 32) / 255 - mean) / std
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)


def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "was here",)

    make(tmp_path, "", pickle.dumps({b"data": Attack(), b"labels": []}))
    assert "data_batch_1: truncated, or not a batch of CIFAR-10 (it names " in refusal(tmp_path)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("length", [0, 100, 40_000, 30_000_000])
def test_a_truncated_pickle_is_named(tmp_path, length):
    make(tmp_path, "", as_python_2_wrote_it()[:length])
    assert f"{tmp_path}/data_batch_1: truncated, or not a batch of CIFAR-10" in refusal(tmp_path)


def test_a_pickle_of_too_few_images_is_named(tmp_path):
    make(tmp_path, "", pickle.dumps({b"data": PIXELS[:9], b"labels": LABELS[:9].tolist()}, protocol=4))
    assert f"{tmp_path}/data_batch_1: 9 labels and 27648 bytes of pixels" in refusal(tmp_path)


def test_a_truncated_binary_file_is_named(tmp_path):
    make(tmp_path, ".bin", as_records()[:-3073])
    assert f"{tmp_path}/data_batch_1.bin: 30726927 bytes long, should be 30730000" in refusal(tmp_path)


def test_a_label_beyond_the_tenth_class_is_refused(tmp_path):
    make(tmp_path, ".bin", b"\x0a" + as_records()[1:])
    assert f"{tmp_path}/data_batch_1.bin: holds label 10" in refusal(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    make(tmp_path, ".bin", as_records())
    (tmp_path / "data_batch_3.bin").unlink()
    assert f"{tmp_path}/data_batch_3.bin: cannot be read (No such file or directory)" in refusal(tmp_path)


def test_a_directory_without_either_layout_is_refused_with_what_was_looked_for(tmp_path):
    assert "no data_batch_1 and no data_batch_1.bin" in refusal(tmp_path / "nowhere")
