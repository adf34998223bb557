"""Other coders for the same symbols: Huffman as in Deep Compression, order-0 arithmetic coding, zstd, xz."""

from __future__ import annotations

import heapq
import lzma
from collections.abc import Iterable

import numpy as np
import zstandard
from numpy.typing import NDArray

Symbols = NDArray[np.int32]

FARTHEST = 16
"""A gap of 4 bits reaches this far; a filler zero stands where the next value is farther away."""


def huffman_bytes(tensors: Iterable[Symbols]) -> int:
    """Values and the gaps between them, a Huffman code a tensor for each (Han et al., 2016, sections 2, 4).

    A code's table counts with a byte a symbol, its length; a codebook is not needed, since values are
    multiples of a step.
    """
    total = 0
    for tensor in tensors:
        positions = np.flatnonzero(tensor)
        gaps = np.diff(positions, prepend=-1) - 1
        fillers = gaps // FARTHEST
        values = np.concatenate([tensor.ravel()[positions], np.zeros(fillers.sum(), np.int32)])
        steps = np.concatenate([gaps % FARTHEST, np.full(fillers.sum(), FARTHEST - 1)])
        total += sum(_huffman_bits(part) for part in (values, steps))
    return -(-total // 8)


def _huffman_bits(symbols: NDArray[np.int_ | np.int32]) -> int:
    _, counts = np.unique(symbols, return_counts=True)
    heap = counts.tolist()
    heapq.heapify(heap)
    bits = 8 * len(counts)
    while len(heap) > 1:  # every merge adds a bit to all symbols below it
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        bits += merged
        heapq.heappush(heap, merged)
    return int(bits)


def order0_bytes(tensors: Iterable[Symbols]) -> int:
    """What an ideal arithmetic coder needs that knows each tensor's frequencies; tables are left out."""
    bits = 0.0
    for tensor in tensors:
        counts = np.unique(tensor, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return round(bits / 8)


def zstd_bytes(tensors: Iterable[Symbols]) -> int:
    """By zstd at level 22, symbols as bytes where they fit, else as 16 bits."""
    return len(zstandard.ZstdCompressor(level=22).compress(_raw(tensors)))


def xz_bytes(tensors: Iterable[Symbols]) -> int:
    """By xz at its best preset, likewise."""
    return len(lzma.compress(_raw(tensors), preset=9 | lzma.PRESET_EXTREME))


def _raw(tensors: Iterable[Symbols]) -> bytes:
    return b"".join(tensor.astype(_narrowest(tensor)).tobytes() for tensor in tensors)


def _narrowest(tensor: Symbols) -> type[np.int8 | np.int16]:
    return np.int8 if np.abs(tensor).max(initial=0) < 128 else np.int16
