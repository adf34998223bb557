"""A decoder of .sqz files written from docs/sqz-format.md, with nothing but Python, a decision at a time."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

BATCH_WEIGHTS, BATCH_PIECES = 2**16, 32
PASSES = (0, 1, 2, *range(4, 65, 4))
T = [((256 + i) ** 64).bit_length() - 513 for i in range(256)]
G = (17, 13, 24, 4)  # of filter, channel, spot, kernel
W_POINT, W_KERNEL = (5, 6, 0, 0), (1, 4, 7, 6)  # where kernels are one weight, and where they are larger


class Kind(NamedTuple):
    contexts: int
    bits: int
    backing: int
    width: int

    def context(self, score: int) -> int:
        return min(max((score + self.width * self.contexts // 2) // self.width, 0), self.contexts - 1)


NOT_ZERO, TOKEN, NEGATIVE = Kind(14, 12, 5, 111), Kind(7, 14, 104, 392), Kind(11, 12, 8, 3)


class Counts:
    """What a tensor's decisions of one kind came to; they grow when a pass ends."""

    def __init__(self, kind: Kind, start: list[int]) -> None:
        self.kind, self.whole = kind, list(start)
        self.possible = [int(count > 0) for count in start]
        self.own = [[0] * len(start) for _ in range(kind.contexts)]
        self.fresh: list[tuple[int, int]] = []
        self.known: dict[int, list[int]] = {}

    def starts(self, k: int) -> list[int]:
        """Where each outcome's range starts in context k, then 2^b."""
        if k not in self.known:
            backing, every = 256 * self.kind.backing, sum(self.whole)
            weight = [256 * o + backing * w // every for o, w in zip(self.own[k], self.whole, strict=True)]
            room, heft = 2**self.kind.bits - sum(self.possible), max(sum(weight), 1)
            f = [p + w * room // heft for p, w in zip(self.possible, weight, strict=True)]
            f[f.index(max(f))] += 2**self.kind.bits - sum(f)
            self.known[k] = list(accumulate(f, initial=0))
        return self.known[k]

    def grow(self) -> None:
        for k, outcome in self.fresh:
            self.own[k][outcome] += 1
            self.whole[outcome] += 1
        self.fresh, self.known = [], {}


class Tensor:
    def __init__(self, shape: tuple[int, ...], density: int, scale: int, last: int) -> None:
        self.shape, self.density, self.scale = shape, density, scale
        self.symbols = [0] * prod(shape)
        self.channels, self.spots = (shape[1], prod(shape[2:])) if len(shape) > 1 else (prod(shape), 1)
        left, tokens = 4096, [0] * 151
        for t in range(min(last, 126) + 1):
            tokens[t] = max(left // scale, 1)
            left -= left // scale
        for t in range(127, last + 1):
            tokens[t] = max(left // 127, 1)
        self.not_zero = Counts(NOT_ZERO, [(255 - density) // 16 + 1, density // 16 + 1])
        self.token = Counts(TOKEN, tokens)
        self.negative = Counts(NEGATIVE, [2, 2])


def lanes_for(weights: int) -> int:
    return 1 << min(max((weights // 4096).bit_length() - 1, 0), 12)


class Lanes:
    """The stream: states, and the words that refill them."""

    def __init__(self, stream: bytes, weights: int) -> None:
        count = lanes_for(weights)
        self.states: list[int] = list(struct.unpack_from(f"<{count}I", stream))
        self.words: Iterator[int] = (word for (word,) in struct.iter_unpack("<H", stream[4 * count :]))
        self.lane = 0

    def decide(self, counts: Counts, k: int) -> int:
        starts, bits, x = counts.starts(k), counts.kind.bits, self.states[self.lane]
        low = x % 2**bits
        outcome = bisect_right(starts, low) - 1
        counts.fresh.append((k, outcome))
        self._turn((starts[outcome + 1] - starts[outcome]) * (x >> bits) + low - starts[outcome])
        return outcome

    def open_bits(self, bits: int) -> int:
        x = self.states[self.lane]
        self._turn(x >> bits)
        return x % (1 << bits)

    def _turn(self, x: int) -> None:
        self.states[self.lane] = x if x >= 2**16 else x * 2**16 + next(self.words)
        self.lane = (self.lane + 1) % len(self.states)

    def ended(self) -> bool:
        return all(x == 2**16 for x in self.states) and next(self.words, None) is None


@dataclass
class Group:
    seen: int = 0
    total: int = 0
    sign: int = 0


@dataclass
class Weight:
    """With its groups: by filter, channel, spot, kernel."""

    tensor: Tensor
    position: int
    phase: int
    piece: Group
    groups: tuple[Group, ...]
    level: int = 0
    token: int = 0
    magnitude: int = 0

    def find_level(self) -> None:
        piece, ws = self.piece, W_POINT if self.tensor.spots == 1 else W_KERNEL
        self.level = sum(
            w * (log(group.total * piece.seen + g * piece.total) - log(group.seen + g) - log(piece.total))
            for group, g, w in zip(self.groups, G, ws, strict=True)
        )

    def leaning(self) -> int:
        _, channel, _, kernel = self.groups
        return 4 * kernel.sign * (self.tensor.spots > 1) + 31 * channel.sign // (channel.seen + 12)

    def add(self) -> None:
        symbol = self.tensor.symbols[self.position]
        for group in (self.piece, *self.groups):
            group.seen += 1
            group.total += min(16 * abs(symbol) // self.tensor.scale, 59)
            group.sign += (symbol > 0) - (symbol < 0)


def log(x: int) -> int:
    """The page's L."""
    whole = x.bit_length() - 1
    return 64 * whole + T[(x << 8 >> whole) - 256]


def piece_weights(tensor: Tensor, start: int, end: int) -> Iterator[Weight]:
    piece = Group(8, 8 * 16 * tensor.density // 255 + 1)
    groups: dict[tuple[int, int], Group] = {}
    for position in range(start, end):
        kernel, q = divmod(position, tensor.spots)
        r, c = divmod(kernel, tensor.channels)
        phase = (5 * r + 3 * c + 7 * q + 3 * (r // 64)) % 64
        mine = (groups.setdefault(key, Group()) for key in enumerate((r, c, q, kernel)))
        yield Weight(tensor, position, phase, piece, tuple(mine))


def batches(tensors: list[Tensor]) -> Iterator[list[Weight]]:
    batch: list[Weight] = []
    pieces = 0
    for tensor in tensors:
        end = 0
        while end < len(tensor.symbols):
            if len(batch) == BATCH_WEIGHTS or pieces == BATCH_PIECES:
                yield batch
                batch, pieces = [], 0
            start, end = end, min(len(tensor.symbols), end + BATCH_WEIGHTS - len(batch))
            batch += piece_weights(tensor, start, end)
            pieces += 1
    yield batch


def decode_pass(lanes: Lanes, weights: list[Weight]) -> None:
    lanes.lane = 0
    for weight in weights:
        weight.find_level()
        weight.magnitude = lanes.decide(weight.tensor.not_zero, NOT_ZERO.context(weight.level))
    there = [weight for weight in weights if weight.magnitude]
    lanes.lane = 0
    for weight in there:
        weight.token = lanes.decide(weight.tensor.token, TOKEN.context(weight.level))
        weight.magnitude = weight.token + 1 if weight.token < 127 else 1
    large = [weight for weight in there if weight.token >= 127]
    for high in (True, False):
        lanes.lane = 0
        for weight in large:
            bits = weight.token - 120
            bits = max(bits - 16, 0) if high else min(bits, 16)
            weight.magnitude = weight.magnitude << bits | lanes.open_bits(bits)
    lanes.lane = 0
    for weight in there:
        negative = lanes.decide(weight.tensor.negative, NEGATIVE.context(weight.leaning()))
        weight.tensor.symbols[weight.position] = -weight.magnitude if negative else weight.magnitude
    for weight in weights:
        weight.add()
    for tensor in {weight.tensor for weight in weights}:
        for counts in (tensor.not_zero, tensor.token, tensor.negative):
            counts.grow()


def read_header(header: bytes, version: int) -> dict[str, Tensor]:
    at = 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        at += struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, header, at - struct.calcsize("<" + form))

    def text() -> str:
        (content,) = take(f"{take('B')[0]}s")
        return str(content, "utf-8")

    text()
    *_model_and_preprocessing, count = take("ddIBBHHd6dH" if version == 1 else "ddIBBHHd6dBBH")
    names = [text() for _ in range(count)]
    shapes = [take(f"{take('B')[0]}I") for _ in range(count)]
    tensors = {name: Tensor(shape, *take("BHB")) for name, shape in zip(names, shapes, strict=True)}
    for _ in range(count):
        _step, length, _zero = take("fII")
        take(f"{length}f")
    assert at == len(header)
    return tensors


def decode(content: bytes) -> dict[str, tuple[tuple[int, ...], list[int]]]:
    """Each tensor's shape and its symbols, flat."""
    assert content[:3] == b"SQZ"
    assert content[3] in (1, 2)
    assert zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "little")
    stream = 8 + int.from_bytes(content[4:8], "little")
    tensors = read_header(zlib.decompress(content[8:stream]), content[3])
    lanes = Lanes(content[stream:-4], sum(len(tensor.symbols) for tensor in tensors.values()))
    for batch in batches(list(tensors.values())):
        batch.sort(key=lambda weight: weight.phase)  # stable: then by place in the batch
        for begin, end in pairwise(PASSES):
            decode_pass(lanes, [weight for weight in batch if begin <= weight.phase < end])
    assert lanes.ended()
    return {name: (tensor.shape, tensor.symbols) for name, tensor in tensors.items()}
