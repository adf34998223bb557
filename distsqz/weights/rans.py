"""Asymmetric numeral systems (rANS) in many lanes, in integer arithmetic: the same bits on any machine.

Coders that code one symbol at a time need a compiled loop (constriction's too, if the model of a symbol
depends on the symbols before it). With lanes, one numpy operation codes one symbol for each lane.

Source: Duda, "Asymmetric numeral systems" (2013), section 3; Giesen, "Interleaved entropy coders" (2014), for
the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distsqz.weights.errors import ArchiveError

Ints = NDArray[np.int64]

WORD_BITS = 16
LOWEST = 1 << WORD_BITS
"""Least state of a lane. States are in [2^16, 2^32); below, the lane reads the next word."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Probability distributions, one per row."""

    frequencies: Ints
    """[rows, alphabet], each at least 1, with rows that sum to 2^bits. At most 256 symbols."""
    bits: int

    @cached_property
    def starts(self) -> Ints:
        """[rows, alphabet]: sums of the frequencies of all lower symbols."""
        return np.cumsum(self.frequencies, axis=1) - self.frequencies

    @cached_property
    def symbol_at(self) -> NDArray[np.uint8]:
        """[rows * 2^bits]: the symbol that owns each slot."""
        rows, alphabet = self.frequencies.shape
        symbols = np.tile(np.arange(alphabet, dtype=np.uint8), rows)
        return np.repeat(symbols, self.frequencies.ravel())


class Coder(Protocol):
    """Interface of `Encoder` and `Decoder`, so that one model serves both."""

    def symbols(self, tables: Tables, rows: Ints, given: Ints | None) -> Ints:
        """Codes one symbol for each of `rows`: returns `given` when encoding, reads symbols when decoding."""

    def raw(self, widths: Ints, given: Ints | None) -> Ints:
        """Codes integers of `widths` (at most 16) equally likely bits."""


class Encoder:
    """Collects symbols, and encodes them back to front, so that the decoder reads front to back."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._steps: list[tuple[Ints, Ints, Ints]] = []

    def symbols(self, tables: Tables, rows: Ints, given: Ints | None) -> Ints:
        """Stores `given` for `finish`; returns it."""
        assert given is not None
        at = rows * tables.frequencies.shape[1] + given
        self._push(tables.starts.ravel()[at], tables.frequencies.ravel()[at], np.full(len(at), tables.bits))
        return given

    def raw(self, widths: Ints, given: Ints | None) -> Ints:
        """Stores `given` for `finish`; returns it."""
        assert given is not None
        self._push(given, np.ones_like(given), widths)
        return given

    def _push(self, starts: Ints, frequencies: Ints, bits: Ints) -> None:
        self._steps.append((starts, frequencies, bits))

    def finish(self) -> bytes:
        """The last state of each lane (uint32), then the words (uint16), all little-endian."""
        lanes = self._lanes
        states = np.full(lanes, LOWEST, np.int64)
        words: list[NDArray[np.uint16]] = []
        for starts, frequencies, bits in reversed(self._steps):
            for begin in reversed(range(0, len(starts), lanes)):
                part = slice(begin, begin + lanes)
                start, frequency, width = starts[part], frequencies[part], bits[part]
                state = states[: len(start)]
                full = state >= frequency << (2 * WORD_BITS - width)
                words.append(state[full].astype("<u2"))
                state = np.where(full, state >> WORD_BITS, state)
                quotient, remainder = np.divmod(state, frequency)
                states[: len(start)] = (quotient << width) + remainder + start
        return states.astype("<u4").tobytes() + b"".join(chunk.tobytes() for chunk in reversed(words))


class Decoder:
    """Decodes what an `Encoder` with as many lanes wrote.

    Corrupt input gives wrong symbols or an error, never a read out of bounds.

    Raises:
        ArchiveError: the stream is too short, or has an odd length or an invalid initial state.
    """

    def __init__(self, content: bytes | memoryview, lanes: int) -> None:
        if len(content) < 4 * lanes or len(content) % 2:
            raise ArchiveError("the stream of symbols is cut off")
        self._lanes = lanes
        self._states = np.frombuffer(content, "<u4", lanes).astype(np.int64)
        if self._states.min() < LOWEST:
            raise ArchiveError("the stream of symbols starts in no valid state")
        self._words = np.frombuffer(content, "<u2", offset=4 * lanes)
        self._next = 0

    def symbols(self, tables: Tables, rows: Ints, given: Ints | None = None) -> Ints:
        """Reads one symbol for each of `rows`."""
        assert given is None
        bits, mask = tables.bits, (1 << tables.bits) - 1
        symbol_at, alphabet = tables.symbol_at, tables.frequencies.shape[1]
        frequencies, starts = tables.frequencies.ravel(), tables.starts.ravel()
        slots, cells = rows << bits, rows * alphabet
        decoded = np.empty(len(rows), np.int64)
        for begin in range(0, len(rows), self._lanes):
            end = begin + self._lanes
            slot, cell = slots[begin:end], cells[begin:end]
            state = self._states[: len(slot)]
            low = state & mask
            symbol = symbol_at.take(slot + low)
            decoded[begin:end] = symbol
            cell = cell + symbol
            state >>= bits
            state *= frequencies.take(cell)
            state += low
            state -= starts.take(cell)
            self._refill(state)
        return decoded

    def raw(self, widths: Ints, given: Ints | None = None) -> Ints:
        """Reads one integer for each of `widths`."""
        assert given is None
        decoded = np.empty(len(widths), np.int64)
        for begin in range(0, len(widths), self._lanes):
            width = widths[begin : begin + self._lanes]
            state = self._states[: len(width)]
            decoded[begin : begin + self._lanes] = state & ((1 << width) - 1)
            state >>= width
            self._refill(state)
        return decoded

    def _refill(self, state: Ints) -> None:
        short = (state < LOWEST).nonzero()[0]
        if count := len(short):
            words = self._words[self._next : self._next + count]
            if len(words) < count:
                raise ArchiveError("the stream of symbols ends too early")
            self._next += count
            state[short] = (state[short] << WORD_BITS) | words

    def finish(self) -> None:
        """Checks that nothing is left.

        Raises:
            ArchiveError: words are left, or a lane does not end where the encoder began.
        """
        if self._next != len(self._words) or (self._states != LOWEST).any():
            raise ArchiveError("the stream of symbols does not end where it should")
