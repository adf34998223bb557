"""Entropy coder of symbols, in passes over sparse subsets of the weights, with contexts from earlier passes.

The magnitude of a weight correlates with those of its filter, input channel, position in the kernel and
neighbours in the kernel; its sign correlates with the signs of its neighbours. All weights of a pass are
coded at once, which makes numpy fast. A pass is 1/64 to 1/16 of the tensor, spread evenly, so that contexts
surround a weight. Tables are not stored: they are counted from earlier passes, starting from two numbers per
tensor. All arithmetic is on integers, so that encoder and decoder agree on any machine.
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
"""Limits on the weights, and on the pieces of tensors, that are coded together, which bound memory."""

_DIRECT_BITS = 7
_DIRECT = (1 << _DIRECT_BITS) - 1
_TOKENS = _DIRECT + 31 - _DIRECT_BITS
"""Number of tokens. Magnitudes 1 to 127 are tokens 0 to 126; above, a token gives the number of bits, and all
bits but the first follow uncoded."""

LAST_TOKEN = _TOKENS - 1
"""Token of the largest magnitude."""

_NONZERO_BINS, _TOKEN_BINS, _SIGN_BINS = 14, 7, 11
_UNIT, _CAP = 16, 59
"""Unit and limit of magnitudes in contexts: sixteenths of the tensor's mean, up to 59. These and the numbers
below were tuned by random search on one pruned SqueezeNet."""


@dataclass(frozen=True)
class SymbolStatistics:
    """Statistics of a tensor that the decoder needs in advance."""

    density: int
    """Share of symbols that are not zero, in 255ths."""
    scale: int
    """Mean magnitude of the symbols that are not zero, rounded; from 1 to 65535."""
    last_token: int
    """Token of the largest magnitude."""


def statistics(symbols: NDArray[np.int32]) -> SymbolStatistics:
    """Computes the statistics of a tensor.

    Raises:
        ValueError: a symbol is -2^31, whose magnitude does not fit into 32 bits.
    """
    magnitudes = np.abs(symbols.ravel().astype(np.int64))
    if magnitudes.max(initial=0) > LARGEST:
        raise ValueError(f"a symbol of -2^31: magnitudes go to {LARGEST}")
    count = int(np.count_nonzero(magnitudes))
    density = round(255 * count / magnitudes.size) if magnitudes.size else 0
    mean = round(int(magnitudes.sum()) / count) if count else 1
    largest = int(_tokens(magnitudes.max(initial=1, keepdims=True).clip(1))[0])
    return SymbolStatistics(density, min(max(mean, 1), 65535), largest)


def lanes_for(weights: int) -> int:
    """Number of lanes: a power of 2, about one per 4096 weights, at most 4096. A lane costs 2 bytes."""
    return 1 << min(max((weights >> 12).bit_length() - 1, 0), 12)


def encode_symbols(tensors: Sequence[NDArray[np.int32]]) -> tuple[list[SymbolStatistics], bytes]:
    """Encodes tensors; returns their statistics, and their symbols as one stream."""
    known = [statistics(tensor) for tensor in tensors]
    encoder = Encoder(lanes_for(sum(tensor.size for tensor in tensors)))
    shapes = [tensor.shape for tensor in tensors]
    flat = [tensor.ravel().astype(np.int64) for tensor in tensors]
    for _ in _code(encoder, shapes, known, flat):
        pass
    return known, encoder.finish()


def decode_symbols(
    content: bytes | memoryview, shapes: Sequence[tuple[int, ...]], known: Sequence[SymbolStatistics]
) -> list[NDArray[np.int32]]:
    """Inverse of `encode_symbols`. Memory grows with what is decoded, not with the sizes that a file claims.

    Raises:
        ArchiveError: the stream holds fewer or more symbols than the shapes need.
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
    """A range of a tensor's flattened weights."""

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
    known: Sequence[SymbolStatistics],
    given: Sequence[Ints] | None,
) -> Iterator[tuple[int, Ints]]:
    """Codes all symbols, and yields them piece by piece: (tensor, flat symbols)."""
    counts = None
    for pieces in _batches(shapes):
        # Only the first piece of a batch can continue the last tensor of the batch before.
        continues = pieces[0].start > 0
        counts = _Counts([known[piece.tensor] for piece in pieces], counts if continues else None)
        grid = _Grid(pieces, shapes, known)
        symbols = np.zeros(grid.size, np.int64)
        if given is not None:
            symbols[:] = np.concatenate([given[piece.tensor][piece.start : piece.stop] for piece in pieces])
        for where in grid.passes():
            symbols[where] = _code_pass(coder, grid, counts, where, None if given is None else symbols[where])
        for piece, begin in zip(pieces, grid.begins, strict=True):
            yield piece.tensor, symbols[begin : begin + piece.stop - piece.start]


def _code_pass(coder: Coder, grid: _Grid, counts: _Counts, where: Ints, given: Ints | None) -> Ints:
    """Codes the weights at `where`: first which are not zero, then their magnitudes, then their signs."""
    owners = grid.owner[where]
    level = grid.level(where)
    flags = None if given is None else (given != 0).astype(np.int64)
    nonzero = counts.nonzero.code(coder, owners, _binned(level, 111, _NONZERO_BINS), flags).nonzero()[0]
    positions, owners, level = where[nonzero], owners[nonzero], level[nonzero]
    values = None if given is None else given[nonzero]
    tokens = None if values is None else _tokens(np.abs(values))
    tokens = counts.tokens.code(coder, owners, _binned(level, 392, _TOKEN_BINS), tokens)
    magnitudes = _code_rest(coder, tokens, None if values is None else np.abs(values))
    signs = None if values is None else (values < 0).astype(np.int64)
    signs = counts.negative.code(coder, owners, _binned(grid.leaning(positions), 3, _SIGN_BINS), signs)
    result = np.zeros(len(where), np.int64)
    result[nonzero] = np.where(signs == 1, -magnitudes, magnitudes)
    grid.learn(where, positions, result[nonzero])
    return result


def _binned(score: Ints, width: int, bins: int) -> Ints:
    """Bin of each score. Bins have equal `width` around 0; the outer bins are open."""
    return np.clip((score + width * bins // 2) // width, 0, bins - 1)


def _tokens(magnitudes: Ints) -> Ints:
    bits = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int64)
    return np.where(magnitudes <= _DIRECT, magnitudes - 1, _DIRECT + bits - 1 - _DIRECT_BITS)


def _code_rest(coder: Coder, tokens: Ints, given: Ints | None) -> Ints:
    """Magnitudes of tokens; if a token gives only the number of bits, the bits below the first follow."""
    magnitudes = tokens + 1
    large = (tokens >= _DIRECT).nonzero()[0]
    widths = tokens[large] - _DIRECT + _DIRECT_BITS
    rest = None if given is None else given[large] - (1 << widths)
    high = coder.raw(np.maximum(widths - 16, 0), None if rest is None else rest >> 16)
    low = coder.raw(np.minimum(widths, 16), None if rest is None else rest & 0xFFFF)
    magnitudes[large] = (1 << widths) + (high << 16) + low
    return magnitudes


class _Counts:
    """Counts of the decisions in a batch so far."""

    def __init__(self, known: Sequence[SymbolStatistics], before: _Counts | None) -> None:
        """Starts with expected counts.

        Args:
            known: statistics of each piece.
            before: counts of the batch before if its last tensor continues as the first piece.
        """
        density = np.array([statistics.density for statistics in known])
        balanced = np.full((len(known), 2), 2)
        self.nonzero = _Adaptive(np.stack([255 - density, density], 1) // 16 + 1, _NONZERO_BINS, 12, 5)
        self.tokens = _Adaptive(np.stack([_expected_tokens(each) for each in known]), _TOKEN_BINS, 14, 104)
        self.negative = _Adaptive(balanced, _SIGN_BINS, 12, 8)
        if before is not None:
            self.nonzero.continue_from(before.nonzero)
            self.tokens.continue_from(before.tokens)
            self.negative.continue_from(before.negative)


def _expected_tokens(known: SymbolStatistics) -> Ints:
    """Initial counts: geometrically distributed magnitudes with the known mean."""
    weights = np.zeros(_TOKENS, np.int64)
    left = 1 << 12
    for token in range(min(known.last_token, _DIRECT - 1) + 1):
        weights[token] = max(left // known.scale, 1)
        left -= left // known.scale
    weights[_DIRECT : known.last_token + 1] = max(left // _DIRECT, 1)
    return weights


class _Adaptive:
    """Distributions of one kind of decision by piece and context, which adapt while coding."""

    def __init__(self, start: Ints, contexts: int, bits: int, backing: int) -> None:
        """Starts with given counts.

        Args:
            start: [pieces, alphabet], initial count of each symbol; symbols with 0 cannot occur.
            contexts: number of contexts.
            bits: bits of the frequencies.
            backing: weight of the distribution of the whole piece in that of each context, in symbols.
        """
        self._bits = bits
        self._possible = (start > 0)[:, None, :]
        self._whole = start
        self._by_context = np.zeros((len(start), contexts, start.shape[1]), np.int64)
        self._backing = backing

    def continue_from(self, before: _Adaptive) -> None:
        """Copies the counts of the last piece of `before` to the first piece."""
        self._whole[0] = before._whole[-1]
        self._by_context[0] = before._by_context[-1]

    def code(self, coder: Coder, pieces: Ints, contexts: Ints, given: Ints | None) -> Ints:
        """Codes a decision for each of `pieces`, then counts all of them."""
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
    """Positions of a batch's weights in their tensors, and counts by the groups that they belong to.

    A weight belongs to four groups: its filter, its input channel, its position in the kernel and its kernel.
    """

    def __init__(
        self, pieces: Sequence[_Piece], shapes: Sequence[tuple[int, ...]], known: Sequence[SymbolStatistics]
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
                # A kernel of one weight has no information: the position's group, with weight 0, replaces it.
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
        """[size]: the piece of each weight."""
        statistics = [known[piece.tensor] for piece in pieces]
        self._scale = np.array([each.scale for each in statistics])
        # Average of the pieces, as if 8 weights had been counted.
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
        """Indices of the weights of each pass."""
        order = np.argsort(self._phases, kind="stable")
        ends = np.searchsorted(self._phases[order], _PASS_ENDS)
        return (part for part in np.split(order, ends[:-1]) if len(part))

    def level(self, where: Ints) -> Ints:
        """Logarithm of the expected magnitude of the weights at `where`, relative to their piece's mean."""
        total, seen = self._total[self._group_owner], self._seen[self._group_owner]
        backing = self._group_backing
        expected = _log2(self._group_total * seen + backing * total)
        level = self._group_weight * (expected - _log2(self._group_seen + backing) - _log2(total))
        whole: Ints = level[self._groups[:, where]].sum(axis=0)
        return whole

    def leaning(self, where: Ints) -> Ints:
        """Score for the sign that the weights at `where` are likely to have."""
        channel, kernel = self._groups[_CHANNEL, where], self._groups[_KERNEL, where]
        of_channel = 31 * self._group_sign[channel] // (self._group_seen[channel] + 12)
        has_kernel = kernel != self._groups[_SPOT, where]
        leaning: Ints = 4 * self._group_sign[kernel] * has_kernel + of_channel
        return leaning

    def learn(self, where: Ints, nonzero: Ints, values: Ints) -> None:
        """Counts a pass: `values` at `nonzero`, and 0 at the rest of `where`."""
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
"""Weights of filter, input channel, position and kernel; first for kernels of one weight, then for larger
ones."""
_BACKING = (17, 13, 24, 4)
"""Number of weights of average magnitude that each of these groups counts initially."""


def _kernel_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Input channels of a filter, and weights of a kernel."""
    if len(shape) < 2:
        return max(_size(shape), 1), 1
    return shape[1], _size(shape[2:])


def _summed(members: Ints, groups: int, values: Ints | None = None) -> Ints:
    # Sums of whole numbers below 2^53 are exact in float64.
    return np.bincount(members, values, minlength=groups).astype(np.int64)


_LOG2 = np.array([((256 + index) ** 64).bit_length() - 1 - 512 for index in range(256)])
"""64 log2(1 + index / 256), rounded down, computed with integers only."""


def _log2(numbers: Ints) -> Ints:
    """64 log2 of positive integers below 2^53, from their first 8 bits, rounded down."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    return _LOG2[(mantissa * 512).astype(np.int64) - 256] + 64 * (exponent.astype(np.int64) - 1)
