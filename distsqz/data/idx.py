"""The idx format of the MNIST family (yann.lecun.com/exdb/mnist): big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distsqz.data.split import SourceError

UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads an idx file of unsigned bytes, which is gzipped if its name ends in .gz.

    Raises:
        SourceError: the file cannot be read, has another format, or a size that differs from its header.
    """
    contents = _read(path)
    header_bytes = 4 + 4 * dimensions
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if contents[:4] != magic or len(contents) < header_bytes:
        raise SourceError(
            f"{path}: not an idx file of {dimensions} dimensions"
            f" (begins with 0x{contents[:4].hex()}, not 0x{magic.hex()})"
        )
    shape = struct.unpack_from(f">{dimensions}I", contents, 4)
    promised, actual = math.prod(shape), len(contents) - header_bytes
    if actual != promised:
        sizes = " x ".join(map(str, shape))
        raise SourceError(f"{path}: its header promises {sizes} = {promised} bytes and {actual} follow")
    return np.frombuffer(contents, np.uint8, offset=header_bytes).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        contents = path.read_bytes()
        return gzip.decompress(contents) if path.suffix == ".gz" else contents
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path}: truncated or not gzip ({error})") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
