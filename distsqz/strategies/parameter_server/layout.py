"""Division of a model's parameters into chunks of equal size, which are distributed over shards."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distsqz.errors import InvalidValue

CHUNK_BYTES = 4 << 20
"""Size of a chunk: large against the cost of a message, small enough that many are in transit at the same
time."""

WINDOW = 3
"""Messages in transit between a worker and a shard, in each direction: enough to keep the link busy while one
is handled, few enough that a more urgent chunk soon gets its turn."""

ROOM_BYTES = 32 << 20
"""Memory of a shard for messages from all workers. With many workers, chunks are smaller."""

LEAST_CHUNKS = 12
"""Least number of chunks, so that transfers overlap for small models too. It is divisible by 1, 2, 3, 4, 6
and 12: with these numbers of shards the chunks, and the rounding of every sum, are the same."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one parameter that lies in one chunk, in elements."""

    parameter: int
    begin: int
    """First element within the parameter."""
    chunk: int
    offset: int
    """First element within the chunk."""
    elements: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Parameters laid end to end and divided into chunks of one size; the last chunk is padded."""

    elements: int
    """Number of elements of all parameters."""
    chunks: int
    chunk_elements: int
    shards: int
    pieces: tuple[Piece, ...]
    """All pieces, in the order of the parameters, which is that of the forward pass."""
    piece_bits_bytes: int
    """Bytes that hold a bit for each piece of any chunk; a multiple of 8."""

    def shard_of(self, chunk: int) -> int:
        """The shard of a chunk; chunks are assigned in turn, so that all shards work throughout a pass."""
        return chunk % self.shards

    def owned_by(self, shard: int) -> range:
        """Numbers of the chunks that a shard owns."""
        return range(shard, self.chunks, self.shards)

    def chunk_size(self, chunk: int) -> int:
        """Number of elements of a chunk, without padding."""
        return min(self.chunk_elements, self.elements - chunk * self.chunk_elements)

    def pieces_by_chunk(self) -> list[list[Piece]]:
        """The pieces of each chunk, in their order within the chunk."""
        pieces: list[list[Piece]] = [[] for _ in range(self.chunks)]
        for piece in self.pieces:
            pieces[piece.chunk].append(piece)
        return pieces


def chunk_bytes_for(workers: int) -> int:
    """Maximum size of a chunk in bytes, so that a shard has memory for the messages of all workers."""
    return min(CHUNK_BYTES, ROOM_BYTES // (WINDOW * workers))


def plan_layout(
    elements: Sequence[int], shards: int, element_bytes: int = 4, chunk_bytes: int = CHUNK_BYTES
) -> Layout:
    """Divides the parameters, laid end to end, into equal chunks.

    Shards own equal parts even if parameters have very different sizes (AlexNet's fc6 is 62% of the model).

    Args:
        elements: number of elements of each parameter, in the order of the forward pass.
        shards: number of shards.
        element_bytes: bytes of one element.
        chunk_bytes: maximum size of a chunk, in bytes, to within one element.

    Raises:
        InvalidValue: there are more shards than elements.
    """
    total = sum(elements)
    if not 1 <= shards <= total:
        raise InvalidValue("servers", shards, f"1 to {total}, the elements that there are to own")
    rounds_of = LEAST_CHUNKS if LEAST_CHUNKS % shards == 0 else shards * -(-LEAST_CHUNKS // shards)
    wanted = rounds_of * max(1, -(-total * element_bytes // (chunk_bytes * rounds_of)))
    chunk_elements = -(-total // wanted)
    if -(-total // chunk_elements) < shards:  # with few elements, rounding up leaves shards without any
        chunk_elements = max(1, total // wanted)
    chunks = -(-total // chunk_elements)
    pieces = tuple(_pieces(elements, chunk_elements))
    most_pieces = max(Counter(piece.chunk for piece in pieces).values())
    return Layout(total, chunks, chunk_elements, shards, pieces, 8 * -(-most_pieces // 64))


def _pieces(elements: Sequence[int], chunk_elements: int) -> list[Piece]:
    starts = [0, *itertools.accumulate(elements)]
    pieces = []
    for parameter, (start, stop) in enumerate(itertools.pairwise(starts)):
        place = start
        while place < stop:
            chunk, offset = divmod(place, chunk_elements)
            taken = min(stop - place, chunk_elements - offset)
            pieces.append(Piece(parameter, place - start, chunk, offset, taken))
            place += taken
    return pieces
