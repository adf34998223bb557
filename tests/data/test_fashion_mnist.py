"""Fashion-MNIST: where it is found, how it is fetched, and what a damaged file is answered with."""

from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from distsqz.data import fashion_mnist, open_data
from distsqz.data.download import download_gzip
from distsqz.data.fashion_mnist import DEBIAN
from distsqz.data.split import SourceError
from distsqz.errors import RequestError

with_debians_files = pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")

# The published checksums (github.com/zalandoresearch/fashion-mnist) are of the packed files, and those hold
# the time of packing; Debian takes name and time out of the header to build the same package anywhere.
PUBLISHED = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 1504176606),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", 1504176606),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", 1504176627),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", 1504176627),
}


def idx(*shape: int, contents: bytes | None = None) -> bytes:
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 10, shape, np.uint8).tobytes() if contents is None else contents
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + contents


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A set of 12 + 4 small images, half of the files packed."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(12, 28, 28)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(12)))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(4, 28, 28))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(4))
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of an HTTP server, and the directory that it serves."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", served
        http.shutdown()
        thread.join()


def refusal(directory: Path) -> str:
    with pytest.raises(RequestError) as refused:
        open_data(f"fashion-mnist:{directory}", image_size=28, seed=0)
    line = str(refused.value)
    assert line.startswith(f"data fashion-mnist:{directory}: ")
    assert "\n" not in line
    return line


@with_debians_files
def test_debians_files_are_the_published_ones_and_have_our_checksums():
    for name, (md5, packed_at) in PUBLISHED.items():
        packed = (DEBIAN / f"{name}.gz").read_bytes()
        header = packed[:3] + b"\x08" + struct.pack("<I", packed_at) + packed[8:10] + name.encode() + b"\0"
        assert hashlib.md5(header + packed[10:]).hexdigest() == md5
        assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == fashion_mnist.SHA256[name]


@with_debians_files
def test_debians_files_are_used_when_no_directory_is_given_and_come_out_normalised():
    data = open_data("fashion-mnist", image_size=28, seed=0)
    assert (data.name, data.num_classes, len(data.train)) == ("fashion-mnist", 10, 60_000)
    assert data.validation is not None
    images, labels = data.validation.batch(np.arange(10_000), np.zeros(10_000, np.bool_))
    assert images.shape == (10_000, 3, 28, 28)
    assert abs(images.mean().item()) < 0.01
    assert abs(images.std().item() - 1) < 0.01
    assert np.bincount(labels.numpy()).tolist() == [1000] * 10


def test_packed_and_plain_files_are_read_from_a_directory(directory):
    data = open_data(f"fashion-mnist:{directory}", image_size=32, seed=0)
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (12, 4)
    assert data.train.batch(np.array([0, 5]), np.array([False, True]))[0].shape == (2, 3, 32, 32)


def test_a_missing_file_is_named(directory):
    (directory / "t10k-labels-idx1-ubyte").unlink()
    assert f"{directory}/t10k-labels-idx1-ubyte.gz: cannot be read (No such file" in refusal(directory)


def test_a_truncated_packed_file_is_named(directory):
    path = directory / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: truncated or not gzip" in refusal(directory)


def test_a_file_shorter_than_its_header_promises_is_named(directory):
    path = directory / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: its header promises 4 x 28 x 28 = 3136 bytes and 3135 follow" in refusal(directory)


@pytest.mark.parametrize("contents", [b"", b"<html>not found</html>", idx(4, 28), idx(4, 28, 28)[:10]])
def test_a_file_of_another_format_is_named(directory, contents):
    path = directory / "t10k-images-idx3-ubyte"
    path.write_bytes(contents)
    assert f"{path}: not an idx file of 3 dimensions" in refusal(directory)


def test_labels_that_do_not_fit_the_images_are_refused(directory):
    path = directory / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(3))
    assert f"{path}: 3 labels for the 4 images" in refusal(directory)
    path.write_bytes(idx(4, contents=bytes([1, 2, 10, 3])))
    assert f"{path}: holds label 10" in refusal(directory)


@with_debians_files
def test_the_published_files_are_downloaded_into_the_cache_and_found_there_again(
    server, tmp_path, monkeypatch
):
    url, served = server
    for name in PUBLISHED:
        (served / f"{name}.gz").symlink_to(DEBIAN / f"{name}.gz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not installed")
    cache = fashion_mnist.cache_directory()
    fashion_mnist.download(cache, url)
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in PUBLISHED)
    assert len(open_data("fashion-mnist", image_size=28, seed=0).train) == 60_000


def test_a_download_with_other_contents_is_refused_and_leaves_nothing(server, tmp_path):
    url, served = server
    good = gzip.compress(b"the published contents")
    other = gzip.compress(b"other contents")
    checksum = hashlib.sha256(b"the published contents").hexdigest()
    into = tmp_path / "cache"
    for contents in (other, good[:-4], b"<html>sign in first</html>"):
        (served / "file.gz").write_bytes(contents)
        with pytest.raises(SourceError, match=rf"^{url}/file\.gz: what came is not the published file .*$"):
            download_gzip(f"{url}/file.gz", into / "file.gz", checksum)
        assert list(into.iterdir()) == []
    (served / "file.gz").write_bytes(good)
    download_gzip(f"{url}/file.gz", into / "file.gz", checksum)
    assert (into / "file.gz").read_bytes() == good


def test_a_server_that_lacks_the_file_or_is_down_is_named_in_one_line(server, tmp_path):
    url, _ = server
    for address, reason in ((url, "HTTP Error 404"), ("http://127.0.0.1:9", "Connection refused")):
        with pytest.raises(SourceError) as refused:
            fashion_mnist.download(tmp_path / "cache", address)
        line = str(refused.value)
        assert line.startswith(f"cannot download {address}/train-images-idx3-ubyte.gz to {tmp_path}/cache (")
        assert reason in line
        assert "\n" not in line
