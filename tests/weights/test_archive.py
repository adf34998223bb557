"""An archive gives back what went in, to the bit; what is no whole archive is refused in a line."""

from __future__ import annotations

import base64
import math
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsqz.models.preprocessing import Filter, Preprocessing, ResizeTo
from distsqz.models.squeezenet import SqueezeNet
from distsqz.weights.archive import MOST_DIMENSIONS, decode, encode, read_archive, write_archive
from distsqz.weights.errors import ArchiveError
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised
from tests.weights import plain_decoder
from tests.weights.small_archives import INFO, damaged, refused, small_model, sparse

OF_VERSION_1 = base64.b64decode(
    "U1FaAUgAAAB42uMqLixNTa1KzUstYQCDC/YQ+kc9F4hiZGB8DBFg+ACViXIAUw6xEPpAnAOqPIIGai5nYgIymYG4gYkBxIRKMjAAAPHS"
    "EJ2nj/6fy76lmA=="
)
"""Written by a release that knew no other version: weights from Caffe; symbols 3 0 -1, 0 2 0 of step 0.5."""


@given(
    name=st.text(max_size=60),
    classes=st.integers(1, 2**32 - 1),
    padding=st.integers(0, 255),
    ratio=st.none() | st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_what_an_archive_says_of_the_model_comes_back(
    name: str, classes: int, padding: int, ratio: float | None
) -> None:
    info = ModelInfo(name=name, num_classes=classes, classifier_padding=padding, squeeze_ratio=ratio)
    assert decode(encode(CompressedModel(info, {}))).info == info


@pytest.mark.parametrize("resize_to", get_args(ResizeTo))
@pytest.mark.parametrize("resampling", get_args(Filter))
def test_how_images_are_prepared_comes_back(resize_to: ResizeTo, resampling: Filter) -> None:
    images = Preprocessing(
        channels="BGR", resize_to=resize_to, resize=300, filter=resampling, crop=299, scale=2.0,
        mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0),
    )  # fmt: skip
    info = ModelInfo(name="squeezenet", num_classes=10, preprocessing=images)
    assert decode(encode(CompressedModel(info, {}))).info.preprocessing == images


def test_an_archive_of_version_1_resizes_the_shorter_side_as_it_was_written_for() -> None:
    found = decode(OF_VERSION_1)
    assert found.info.preprocessing == Preprocessing(
        channels="BGR", resize_to="shorter side", resize=256, filter="bilinear", crop=227, scale=1.0,
        mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    np.testing.assert_array_equal(found.state()["w"], [[1.5, 0, -0.5], [0, 1, 0]])
    assert plain_decoder.decode(OF_VERSION_1) == {"w": ((2, 3), [3, 0, -1, 0, 2, 0])}


@pytest.mark.parametrize("choice", [b"\x02\x02", b"\x01\x06"])
def test_a_way_of_resizing_that_does_not_exist_is_refused(choice: bytes) -> None:
    content = encode(CompressedModel(INFO, {"w": sparse((77, 5), 1)}))
    ones, count = np.ones(3, "<f8").tobytes(), b"\x01\x00"
    with pytest.raises(ArchiveError, match="does not tell how images are resized"):
        decode(with_header(content, {ones + b"\x01\x02" + count: ones + choice + count}))


def test_tensors_come_back_by_name_in_order_and_to_the_bit(tmp_path: Path) -> None:
    model = small_model()
    assert write_archive(tmp_path / "m.sqz", model) == (tmp_path / "m.sqz").stat().st_size
    found = read_archive(tmp_path / "m.sqz")
    assert found.info == INFO
    assert list(found.tensors) == list(model.tensors)
    for name, tensor in model.tensors.items():
        assert found.tensors[name].symbols.dtype == np.int32
        np.testing.assert_array_equal(found.tensors[name].symbols, tensor.symbols)
        np.testing.assert_array_equal(found.state()[name], tensor.values)


def test_values_are_symbols_times_the_step_in_32_bits() -> None:
    tensor = sparse((40, 7), 0.5)
    found = decode(encode(CompressedModel(INFO, {"w": tensor}))).state()["w"]
    np.testing.assert_array_equal(found, tensor.symbols.astype(np.float32) * np.float32(0.01))


def test_a_codebook_gives_the_values() -> None:
    codebook = np.array([-3, -0.5, 0, 0.25, 9], np.float32)
    symbols = np.array([[-2, 0, 2], [1, -1, 0]], np.int32)
    model = CompressedModel(INFO, {"w": Quantised(symbols, 1.0, codebook, 2)})
    expected = np.array([[-3, 0, 9], [0.25, -0.5, 0]], np.float32)
    np.testing.assert_array_equal(decode(encode(model)).state()["w"], expected)


def test_the_same_model_gives_the_same_bytes() -> None:
    assert encode(small_model()) == encode(small_model()) == encode(decode(encode(small_model())))


def test_every_truncation_is_refused_with_and_without_the_checksum() -> None:
    content = encode(small_model())
    for length in range(len(content)):
        assert refused(content[:length], verify=True), length
        assert refused(content[:length], verify=False), length


@pytest.mark.parametrize(
    "count", [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_damage_is_refused_by_the_checksum_and_harmless_without_it(count: int) -> None:
    content = encode(small_model())
    generator = np.random.default_rng(1)
    for _ in range(count):
        bad = damaged(content, generator)
        if bad != content:
            assert refused(bad, verify=True)
            refused(bad, verify=False)


def peak_bytes(content: bytes) -> int:
    tracemalloc.start()
    refused(content, verify=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_decoding_allocates_at_most_four_times_the_model_whole_or_damaged() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in SqueezeNet().state_dict().items()}
    content = encode(CompressedModel(INFO, {name: sparse(shape, 0.3) for name, shape in shapes.items()}))
    model_bytes = 4 * sum(math.prod(shape) for shape in shapes.values())
    assert peak_bytes(content) < 4 * model_bytes
    generator = np.random.default_rng(2)
    for _ in range(8):
        assert peak_bytes(damaged(content, generator)) < 4 * model_bytes


def with_header(content: bytes, change: dict[bytes, bytes]) -> bytes:
    """Its header unpacked, changed, packed again: damage that deflate's own checksum would have caught."""
    length = int.from_bytes(content[4:8], "little")
    header = zlib.decompress(content[8 : 8 + length])
    for old, new in change.items():
        assert header.count(old) == 1
        header = header.replace(old, new)
    packed = zlib.compress(header, 9)
    body = content[:4] + len(packed).to_bytes(4, "little") + packed + content[8 + length : -4]
    return body + zlib.crc32(body).to_bytes(4, "little")


SHAPE = np.array([77, 5], "<u4").tobytes()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2**32 - 1, 2**32 - 1), "weights"),
        ((0, 2**32 - 1, 2**32 - 1), "weights"),
        ((1,) * (MOST_DIMENSIONS + 1), "dimensions"),
        ((1,) * 255, "dimensions"),
        ((77, 4), "does not end|too early|no valid state"),
        ((77, 6), "does not end|too early|no valid state"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(shape: tuple[int, ...], said: str) -> None:
    content = encode(CompressedModel(INFO, {"w": sparse((77, 5), 1)}))
    claimed = bytes([len(shape)]) + np.array(shape, "<u4").tobytes()
    with pytest.raises(ArchiveError, match=said):
        decode(with_header(content, {b"\x02" + SHAPE: claimed}))


def test_values_outside_of_the_codebook_are_refused() -> None:
    codebook = np.array([-1, 0, 1], np.float32)
    model = CompressedModel(INFO, {"w": Quantised(np.array([1, -1, 0], np.int32), 1.0, codebook, 1)})
    fields = np.array([3, 1], "<u4").tobytes() + codebook.tobytes()
    worse = np.array([2, 1], "<u4").tobytes() + codebook[:2].tobytes()
    with pytest.raises(ArchiveError, match="codebook"):
        decode(with_header(encode(model), {fields: worse}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an .sqz"),
        (b"PK\x03\x04", "not an .sqz"),
        (b"SQZ\x03" + bytes(20), "version 3.* reads 1 to 2"),
        (b"SQZ\x00" + bytes(20), "version 0"),
    ],
)
def test_what_is_something_else_is_named(content: bytes, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        decode(content)


def test_a_name_too_long_for_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        encode(CompressedModel(ModelInfo(name="n" * 256, num_classes=1), {}))


def test_a_number_too_large_for_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        encode(CompressedModel(INFO, {"w": Quantised(np.ones(3, np.int32), step=1e300)}))
    with pytest.raises(ValueError, match="more than 32 dimensions"):
        encode(CompressedModel(INFO, {"w": Quantised(np.ones((1,) * 33, np.int32))}))


def test_nothing_half_written_stays_behind(tmp_path: Path) -> None:
    (tmp_path / "m.sqz").mkdir()
    with pytest.raises(OSError, match=r"m\.sqz"):
        write_archive(tmp_path / "m.sqz", small_model())
    assert [path.name for path in tmp_path.iterdir()] == ["m.sqz"]


def test_an_archive_decodes_where_there_is_no_torch(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.sqz", small_model())
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from distsqz.weights.archive import read_archive\n"
        "print(sum(float(v.sum()) for v in read_archive(Path(sys.argv[1])).state().values()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m.sqz"], capture_output=True, text=True, check=True
    )
    expected = sum(float(values.sum()) for values in small_model().state().values())
    assert float(done.stdout) == pytest.approx(expected, rel=1e-6)
