"""Updates: the compressed difference between two files of the same size, by 32-bit words.

docs/shipping.md describes the format. Weights that training has changed slightly keep sign and exponent, so
that as integers they are close to each other: the upper bytes of the differences are nearly all zero and
compress well. Subtraction modulo 2**32 is exactly reversible for any content.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import zstandard
from numpy.typing import NDArray

from distsqz.errors import RunError

MAGIC = b"DSQU"
VERSION = 1
HEADER = struct.Struct("<4sB3xQ32s32s")
"""Magic, version, size of either file, SHA-256 of the base, SHA-256 of the result."""
LENGTH = struct.Struct("<I")
"""Length of the compressed piece that follows, in bytes."""
WORD_BYTES = 4
PIECE_BYTES = 1 << 22
"""Bytes of each file that are compressed at once, which bounds memory for files of any size."""
LEVEL = 3
"""Compression level of zstandard. Higher levels take ten times as long and save a hundredth."""

Words = NDArray[np.uint32]


def write_update(base: BinaryIO, result: BinaryIO, into: BinaryIO) -> None:
    """Writes the update that turns `base` into `result`.

    Raises:
        ValueError: the files have different sizes.
    """
    size, base_sha256 = size_and_sha256(base)
    result_size, result_sha256 = size_and_sha256(result)
    if size != result_size:
        raise ValueError(f"{size:,} and {result_size:,} bytes")
    into.write(HEADER.pack(MAGIC, VERSION, size, base_sha256, result_sha256))
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    for old, new in zip(_pieces(base), _pieces(result), strict=True):
        piece = compressor.compress(_planes(_words(new) - _words(old)))
        into.write(LENGTH.pack(len(piece)) + piece)


def apply_update(update: BinaryIO, base: BinaryIO, into: BinaryIO) -> bytes:
    """Applies `update` to `base`, writes the result to `into` and returns its SHA-256.

    Raises:
        RunError: the update is damaged, is no update, or belongs to another base.
    """
    update.seek(0)
    size, base_sha256, result_sha256 = _read_header(update)
    if size_and_sha256(base) != (size, base_sha256):
        raise RunError("the update belongs to another base")
    digest = hashlib.sha256()
    for old in _pieces(base):
        words = _words(old)
        try:
            planes = _decompressed(update, words.nbytes)
        except (struct.error, zstandard.ZstdError, ValueError) as error:
            raise RunError(f"the update is damaged ({error})") from error
        new = (words + _differences(planes)).astype("<u4", copy=False).tobytes()[: len(old)]
        digest.update(new)
        into.write(new)
    if update.read(1) or digest.digest() != result_sha256:
        raise RunError("the update is damaged (SHA-256 of its result does not agree)")
    return result_sha256


def size_and_sha256(file: BinaryIO) -> tuple[int, bytes]:
    """Size in bytes and SHA-256 of a file, which is read from its beginning."""
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(file):
        digest.update(piece)
        size += len(piece)
    return size, digest.digest()


def _decompressed(update: BinaryIO, size: int) -> bytes:
    """Decompresses the next piece of an update.

    The piece must hold `size` bytes: allocating the size that a damaged piece states could exhaust memory.

    Raises:
        struct.error, zstandard.ZstdError, ValueError: the piece is damaged.
    """
    (length,) = LENGTH.unpack(update.read(LENGTH.size))
    piece = update.read(length)
    if zstandard.frame_content_size(piece) != size:
        raise ValueError("a piece is of another size")
    return zstandard.ZstdDecompressor().decompress(piece)


def _read_header(update: BinaryIO) -> tuple[int, bytes, bytes]:
    header = update.read(HEADER.size)
    if len(header) < HEADER.size:
        raise RunError("the update is damaged (its header is cut off)")
    magic, version, size, base_sha256, result_sha256 = HEADER.unpack(header)
    if magic != MAGIC:
        raise RunError("not an update")
    if version != VERSION:
        raise RunError(f"an update of version {version}; this program reads version {VERSION}")
    return size, base_sha256, result_sha256


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        yield piece


def _words(piece: bytes) -> Words:
    """A piece as little-endian words; the last piece of a file is padded with zeros."""
    return np.frombuffer(piece + bytes(-len(piece) % WORD_BYTES), "<u4")


def _planes(difference: Words) -> bytes:
    """Zigzag-encoded differences by byte: all lowest bytes first, then the next higher ones."""
    signed = difference.view(np.int32)
    by_size = ((signed << 1) ^ (signed >> 31)).astype("<i4", copy=False)
    return by_size.view(np.uint8).reshape(-1, WORD_BYTES).T.tobytes()


def _differences(planes: bytes) -> Words:
    """The inverse of `_planes`."""
    by_size: Words = np.frombuffer(planes, np.uint8).reshape(WORD_BYTES, -1).T.copy().view("<u4").reshape(-1)
    one = np.uint32(1)
    sign: Words = np.uint32(0) - (by_size & one)
    return (by_size >> one) ^ sign
