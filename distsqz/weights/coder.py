"""The entropy coder of symbols: passes over a sparse grid of weights, with contexts from those before.

A weight's size goes with its filter's, its input channel's, its place's in the kernel and its neighbours' in
the kernel; its sign goes with its neighbours' signs. All weights of a pass are coded at once (numpy's way to
be fast), a pass being 1/64 to 1/16 of the tensor spread evenly over it, so that contexts come from all around
and not only from one side. Tables are not sent: they are counted from the passes before, from a start that
two numbers a tensor give. All of it is whole-number arithmetic: encoder and decoder agree on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distsqz.weights.rans import Coder, Decoder, Encoder, Ints, Tables

LARGEST = 2**31 - 1
"""The largest magnitude of a symbol."""

_PHASES = 64
_PASS_ENDS = (1, 2, 4, 8, *range(12, _PHASES + 1, 4))
_BLOCK = 1 << 16
_TENSORS_A_BATCH = 32
"""At most so many weights, and pieces of tensors, are coded together: bounds what is allocated."""

_DIRECT_BITS = 7
_DIRECT = (1 << _DIRECT_BITS) - 1
_TOKENS = _DIRECT + 31 - _DIRECT_BITS
"""Magnitudes 1 to 127 are tokens 0 to 126; above, the token gives the number of bits, and all but the first
of these follow as they are."""

LAST_TOKEN = _TOKENS - 1
"""The token of the largest magnitude there is."""

_NONZERO_BINS, _TOKEN_BINS, _SIGN_BINS = 14, 7, 11
_UNIT, _CAP = 16, 59
"""Magnitudes count in sixteenths of their tensor's mean, up to 59; these and the numbers below were tuned by
random search on one pruned SqueezeNet."""


@dataclass(frozen=True)
class Statistics:
    """What the decoder must know of a tensor beforehand."""

    density: int
    """Share of symbols that are not zero, in 255ths."""
    scale: int
    """Mean magnitude of those, rounded; from 1 to 65535."""
    last_token: int
    """Token of the largest magnitude."""


def statistics(symbols: NDArray[np.int32]) -> Statistics:
    """Counts them.

    Raises:
        ValueError: -2^31, which has no magnitude in 32 bits.
    """
    magnitudes = np.abs(symbols.ravel().astype(np.int64))
    if magnitudes.max(initial=0) > LARGEST:
        raise ValueError(f"a symbol of -2^31: magnitudes go to {LARGEST}")
    count = int(np.count_nonzero(magnitudes))
    density = round(255 * count / magnitudes.size) if magnitudes.size else 0
    mean = round(int(magnitudes.sum()) / count) if count else 1
    largest = int(_tokens(magnitudes.max(initial=1, keepdims=True).clip(1))[0])
    return Statistics(density, min(max(mean, 1), 65535), largest)


def lanes_for(weights: int) -> int:
    """A lane costs 2 bytes and saves time: a power of 2, one for about 4096 weights, at most 4096."""
    return 1 << min(max((weights >> 12).bit_length() - 1, 0), 12)


def encode_symbols(tensors: Sequence[NDArray[np.int32]]) -> tuple[list[Statistics], bytes]:
    """The tensors' statistics and their symbols as one stream."""
    known = [statistics(tensor) for tensor in tensors]
    encoder = Encoder(lanes_for(sum(tensor.size for tensor in tensors)))
    shapes = [tensor.shape for tensor in tensors]
    flat = [tensor.ravel().astype(np.int64) for tensor in tensors]
    for _ in _code(encoder, shapes, known, flat):
        pass
    return known, encoder.finish()


def decode_symbols(
    content: bytes | memoryview, shapes: Sequence[tuple[int, ...]], known: Sequence[Statistics]
) -> list[NDArray[np.int32]]:
    """The inverse of `encode_symbols`; allocates as it goes, not by what is claimed.

    Raises:
        ArchiveError: the stream does not hold that many symbols, or more.
    """
    decoder = Decoder(content, lanes_for(sum(_size(shape) for shape in shapes)))
    pieces: list[list[NDArray[np.int32]]] = [[] for _ in shapes]
    for tensor, symbols in _code(decoder, shapes, known, None):
        pieces[tensor].append(symbols.astype(np.int32))
    decoder.finish()
    whole = []
    for index, shape in enumerate(shapes):
        parts, pieces[index] = pieces[index], []
        whole.append((np.concatenate(parts) if parts else np.zeros(0, np.int32)).reshape(shape))
    return whole


@dataclass(frozen=True)
class _Piece:
    """A run of a tensor's flattened weights."""

    tensor: int
    start: int
    stop: int


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _batches(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[_Piece]]:
    """Pieces that are coded together, in order."""
    batch: list[_Piece] = []
    room = _BLOCK
    for tensor, shape in enumerate(shapes):
        size, start = _size(shape), 0
        while start < size:
            stop = min(size, start + room)
            batch.append(_Piece(tensor, start, stop))
            room -= stop - start
            start = stop
            if room == 0 or len(batch) == _TENSORS_A_BATCH:
                yield batch
                batch, room = [], _BLOCK
    if batch:
        yield batch


def _code(
    coder: Coder,
    shapes: Sequence[tuple[int, ...]],
    known: Sequence[Statistics],
    given: Sequence[Ints] | None,
) -> Iterator[tuple[int, Ints]]:
    """Codes all symbols, and yields them piece by piece: (tensor, flat symbols)."""
    counts = None
    for pieces in _batches(shapes):
        # Only the first piece of a batch can go on with a tensor of the batch before: its last one.
        goes_on = pieces[0].start > 0
        counts = _Counts([known[piece.tensor] for piece in pieces], counts if goes_on else None)
        grid = _Grid(pieces, shapes, known)
        symbols = np.zeros(grid.size, np.int64)
        if given is not None:
            symbols[:] = np.concatenate([given[piece.tensor][piece.start : piece.stop] for piece in pieces])
        for where in grid.passes():
            symbols[where] = _code_pass(coder, grid, counts, where, None if given is None else symbols[where])
        for piece, begin in zip(pieces, grid.begins, strict=True):
            yield piece.tensor, symbols[begin : begin + piece.stop - piece.start]


def _code_pass(coder: Coder, grid: _Grid, counts: _Counts, where: Ints, given: Ints | None) -> Ints:
    """Codes the weights at `where`: which are not zero, then these ones' magnitudes, then their signs."""
    owners = grid.owner[where]
    level = grid.level(where)
    flags = None if given is None else (given != 0).astype(np.int64)
    nonzero = counts.nonzero.code(coder, owners, _binned(level, 111, _NONZERO_BINS), flags).nonzero()[0]
    there, owners, level = where[nonzero], owners[nonzero], level[nonzero]
    values = None if given is None else given[nonzero]
    tokens = None if values is None else _tokens(np.abs(values))
    tokens = counts.tokens.code(coder, owners, _binned(level, 392, _TOKEN_BINS), tokens)
    magnitudes = _code_rest(coder, tokens, None if values is None else np.abs(values))
    signs = None if values is None else (values < 0).astype(np.int64)
    signs = counts.negative.code(coder, owners, _binned(grid.leaning(there), 3, _SIGN_BINS), signs)
    found = np.zeros(len(where), np.int64)
    found[nonzero] = np.where(signs == 1, -magnitudes, magnitudes)
    grid.learn(where, there, found[nonzero])
    return found


def _binned(score: Ints, width: int, bins: int) -> Ints:
    """Equal bins of `width` around 0, the outer ones open."""
    return np.clip((score + width * bins // 2) // width, 0, bins - 1)


def _tokens(magnitudes: Ints) -> Ints:
    bits = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int64)
    return np.where(magnitudes <= _DIRECT, magnitudes - 1, _DIRECT + bits - 1 - _DIRECT_BITS)


def _code_rest(coder: Coder, tokens: Ints, given: Ints | None) -> Ints:
    """The magnitudes; where the token gives only the number of their bits, those below the first follow."""
    magnitudes = tokens + 1
    large = (tokens >= _DIRECT).nonzero()[0]
    widths = tokens[large] - _DIRECT + _DIRECT_BITS
    rest = None if given is None else given[large] - (1 << widths)
    high = coder.raw(np.maximum(widths - 16, 0), None if rest is None else rest >> 16)
    low = coder.raw(np.minimum(widths, 16), None if rest is None else rest & 0xFFFF)
    magnitudes[large] = (1 << widths) + (high << 16) + low
    return magnitudes


class _Counts:
    """What has been counted so far of a batch's pieces."""

    def __init__(self, known: Sequence[Statistics], before: _Counts | None) -> None:
        """`before`: of the batch before, whose last tensor goes on as the first of this one."""
        density = np.array([statistics.density for statistics in known])
        balanced = np.full((len(known), 2), 2)
        self.nonzero = _Adaptive(np.stack([255 - density, density], 1) // 16 + 1, _NONZERO_BINS, 12, 5)
        self.tokens = _Adaptive(np.stack([_expected_tokens(each) for each in known]), _TOKEN_BINS, 14, 104)
        self.negative = _Adaptive(balanced, _SIGN_BINS, 12, 8)
        if before is not None:
            self.nonzero.go_on(before.nonzero)
            self.tokens.go_on(before.tokens)
            self.negative.go_on(before.negative)


def _expected_tokens(known: Statistics) -> Ints:
    """Counts to begin with: magnitudes that thin out geometrically from 1, with the mean that they have."""
    weights = np.zeros(_TOKENS, np.int64)
    left = 1 << 12
    for token in range(min(known.last_token, _DIRECT - 1) + 1):
        weights[token] = max(left // known.scale, 1)
        left -= left // known.scale
    weights[_DIRECT : known.last_token + 1] = max(left // _DIRECT, 1)
    return weights


class _Adaptive:
    """Distributions of one kind of decision, by piece of tensor and context, counted as coding goes on."""

    def __init__(self, start: Ints, contexts: int, bits: int, backing: int) -> None:
        """`start`: [pieces, alphabet], how often each symbol counts as seen; what has 0 there cannot occur.

        `backing`: how many symbols the piece's whole distribution counts for in that of each context.
        """
        self._bits = bits
        self._possible = (start > 0)[:, None, :]
        self._whole = start
        self._by_context = np.zeros((len(start), contexts, start.shape[1]), np.int64)
        self._backing = backing

    def go_on(self, before: _Adaptive) -> None:
        """Takes the counts of the last piece of `before` for the first piece."""
        self._whole[0] = before._whole[-1]
        self._by_context[0] = before._by_context[-1]

    def code(self, coder: Coder, pieces: Ints, contexts: Ints, given: Ints | None) -> Ints:
        """Codes a decision for each of `pieces`, then learns from them all."""
        _, many, alphabet = self._by_context.shape
        rows = pieces * many + contexts
        symbols = coder.symbols(self._tables(), rows, given)
        seen = np.bincount(rows * alphabet + symbols, minlength=self._by_context.size)
        seen = seen.reshape(self._by_context.shape)
        self._by_context += seen
        self._whole += seen.sum(axis=1)
        return symbols

    def _tables(self) -> Tables:
        whole = self._whole[:, None, :]
        share = whole * (self._backing * 256) // whole.sum(axis=2, keepdims=True)
        weights = self._by_context * 256 + share
        possible = self._possible.sum(axis=2, keepdims=True)
        spare = (1 << self._bits) - possible
        frequencies = self._possible + weights * spare // np.maximum(weights.sum(axis=2, keepdims=True), 1)
        frequencies = frequencies.reshape(-1, weights.shape[2])
        rows = np.arange(len(frequencies))
        frequencies[rows, frequencies.argmax(axis=1)] += (1 << self._bits) - frequencies.sum(axis=1)
        return Tables(frequencies, self._bits)


class _Grid:
    """Where a batch's weights stand in their tensors, and what is known so far of the groups they are in.

    A weight is in four groups: its filter, its input channel, its spot in the kernel and its kernel.
    """

    def __init__(
        self, pieces: Sequence[_Piece], shapes: Sequence[tuple[int, ...]], known: Sequence[Statistics]
    ) -> None:
        phases, groups, owners, kinds = [], [], [], []
        first = 0
        for index, piece in enumerate(pieces):
            channels, spots = _kernel_shape(shapes[piece.tensor])
            flat = np.arange(piece.start, piece.stop)
            kernel, spot = np.divmod(flat, spots)
            row, channel = np.divmod(kernel, channels)
            phases.append(((5 * row + 3 * channel + 7 * spot + 3 * (row // 64)) % _PHASES).astype(np.uint8))
            members = [row - row[0], channel - channel.min(), spot - spot.min(), kernel - kernel[0]]
            for kind, member in enumerate(members):
                many = int(member.max()) + 1 if kind != _KERNEL or spots > 1 else 0
                # A kernel of one weight says nothing of it: the spot's group, of weight 0 there, stands in.
                members[kind] = member + first if many else members[_SPOT]
                first += many
                owners.append(np.full(many, index))
                kinds.append(np.full(many, kind + 4 * (spots > 1)))
            groups.append(np.stack(members).astype(np.int32))
        self._phases = np.concatenate(phases)
        self._groups = np.concatenate(groups, axis=1)
        sizes = [piece.stop - piece.start for piece in pieces]
        self.begins = [sum(sizes[:index]) for index in range(len(sizes))]
        self.size = sum(sizes)
        self.owner = np.repeat(np.arange(len(pieces)), sizes)
        """[size]: which piece each weight is of."""
        statistics = [known[piece.tensor] for piece in pieces]
        self._scale = np.array([each.scale for each in statistics])
        # What the pieces hold on average, as if 8 weights had been seen.
        self._total = np.array([8 * _UNIT * each.density // 255 + 1 for each in statistics])
        self._seen = np.full(len(pieces), 8)
        self._group_owner = np.concatenate(owners)
        group_kinds = np.concatenate(kinds)
        self._group_weight = np.array(_WEIGHTS)[group_kinds]
        self._group_backing = np.array(_BACKING)[group_kinds % 4]
        self._group_total = np.zeros(first, np.int64)
        self._group_seen = np.zeros(first, np.int64)
        self._group_sign = np.zeros(first, np.int64)

    def passes(self) -> Iterator[Ints]:
        """The weights of each pass."""
        order = np.argsort(self._phases, kind="stable")
        ends = np.searchsorted(self._phases[order], _PASS_ENDS)
        return (part for part in np.split(order, ends[:-1]) if len(part))

    def level(self, where: Ints) -> Ints:
        """How large the weights at `where` are likely to be against their piece's mean, in octaves."""
        total, seen = self._total[self._group_owner], self._seen[self._group_owner]
        backing = self._group_backing
        expected = _log2(self._group_total * seen + backing * total)
        level = self._group_weight * (expected - _log2(self._group_seen + backing) - _log2(total))
        whole: Ints = level[self._groups[:, where]].sum(axis=0)
        return whole

    def leaning(self, where: Ints) -> Ints:
        """Which sign the weights at `where` are likely to have."""
        channel, kernel = self._groups[_CHANNEL, where], self._groups[_KERNEL, where]
        of_channel = 31 * self._group_sign[channel] // (self._group_seen[channel] + 12)
        has_kernel = kernel != self._groups[_SPOT, where]
        leaning: Ints = 4 * self._group_sign[kernel] * has_kernel + of_channel
        return leaning

    def learn(self, where: Ints, nonzero: Ints, values: Ints) -> None:
        """Takes in a pass: `values` at `nonzero`, and 0 at the rest of `where`."""
        owner = self.owner[nonzero]
        sizes = np.minimum(np.abs(values) * _UNIT // self._scale[owner], _CAP)
        self._total += _summed(owner, len(self._total), sizes)
        self._seen += _summed(self.owner[where], len(self._seen))
        for members in self._groups:
            self._group_seen += _summed(members[where], len(self._group_seen))
            self._group_total += _summed(members[nonzero], len(self._group_total), sizes)
            self._group_sign += _summed(members[nonzero], len(self._group_sign), np.sign(values))


_CHANNEL, _SPOT, _KERNEL = 1, 2, 3
_WEIGHTS = (5, 6, 0, 0, 1, 4, 7, 6)
"""Of filter, input channel, spot and kernel; first where a kernel is one weight, then where it is larger."""
_BACKING = (17, 13, 24, 4)
"""How many weights of the average size each of these groups counts as having held from the start."""


def _kernel_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Input channels of a filter, and weights of a kernel."""
    if len(shape) < 2:
        return max(_size(shape), 1), 1
    return shape[1], _size(shape[2:])


def _summed(members: Ints, groups: int, values: Ints | None = None) -> Ints:
    # Sums of whole numbers below 2^53 are exact in float64.
    return np.bincount(members, values, minlength=groups).astype(np.int64)


_LOG2 = np.array([((256 + index) ** 64).bit_length() - 1 - 512 for index in range(256)])
"""64 log2(1 + index / 256), rounded down, by whole-number arithmetic alone."""


def _log2(numbers: Ints) -> Ints:
    """64 log2 of positive whole numbers below 2^53, to 8 bits of them, rounded down."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    return _LOG2[(mantissa * 512).astype(np.int64) - 256] + 64 * (exponent.astype(np.int64) - 1)
