"""How a model's parameters are cut: into chunks that travel alone, dealt to the shards that own them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distsqz.errors import InvalidValue

CHUNK_BYTES = 4 << 20
"""Large enough that a message's own cost is lost in it; small enough that many are under way at once."""

WINDOW = 3
"""Messages that a worker may have on its way to a shard, and a shard to a worker: enough to keep the link
busy while one of them is handled, few enough that a more urgent chunk overtakes soon."""

ROOM_BYTES = 32 << 20
"""What a shard keeps free for messages from all workers together: many workers send smaller ones."""

LEAST_CHUNKS = 12
"""A small model is cut as often as this, so that its chunks overlap too. Divides by 1, 2, 3, 4, 6, 12:
for as many shards the cuts are the same, and with them every rounding of every sum."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one parameter that lies in one chunk, in elements of memory."""

    parameter: int
    begin: int
    """Its first element within the parameter."""
    chunk: int
    offset: int
    """Its first element within the chunk."""
    elements: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Parameters laid end to end and cut into chunks of one size; the last one is padded."""

    elements: int
    """Of all parameters together."""
    chunks: int
    chunk_elements: int
    shards: int
    pieces: tuple[Piece, ...]
    """In the order of the parameters, which is that of the forward pass."""
    piece_bits_bytes: int
    """Bytes that hold a bit for each piece of any chunk; a multiple of 8."""

    def shard_of(self, chunk: int) -> int:
        """Who owns a chunk: they are dealt in turn, so that at any moment of a pass all shards have work."""
        return chunk % self.shards

    def owned_by(self, shard: int) -> range:
        """The chunks of a shard."""
        return range(shard, self.chunks, self.shards)

    def chunk_size(self, chunk: int) -> int:
        """Elements of a chunk without its padding."""
        return min(self.chunk_elements, self.elements - chunk * self.chunk_elements)

    def pieces_by_chunk(self) -> list[list[Piece]]:
        """The pieces of each chunk, in the order in which they lie there."""
        pieces: list[list[Piece]] = [[] for _ in range(self.chunks)]
        for piece in self.pieces:
            pieces[piece.chunk].append(piece)
        return pieces


def chunk_bytes_for(workers: int) -> int:
    """The most that a chunk may have, for a shard to have room for every worker's."""
    return min(CHUNK_BYTES, ROOM_BYTES // (WINDOW * workers))


def plan_layout(
    elements: Sequence[int], shards: int, element_bytes: int = 4, chunk_bytes: int = CHUNK_BYTES
) -> Layout:
    """Cuts the parameters, laid end to end, into equal chunks.

    However unequal the parameters are (AlexNet's fc6 alone is 62% of the model), shards own alike.

    Args:
        elements: of each parameter, in the order of the forward pass.
        shards: that own the chunks.
        element_bytes: of one element.
        chunk_bytes: the most that a chunk may have, to within an element.

    Raises:
        InvalidValue: there are more shards than elements.
    """
    total = sum(elements)
    if not 1 <= shards <= total:
        raise InvalidValue("servers", shards, f"1 to {total}, the elements that there are to own")
    rounds_of = LEAST_CHUNKS if LEAST_CHUNKS % shards == 0 else shards * -(-LEAST_CHUNKS // shards)
    wanted = rounds_of * max(1, -(-total * element_bytes // (chunk_bytes * rounds_of)))
    chunk_elements = -(-total // wanted)
    if -(-total // chunk_elements) < shards:  # so few elements that rounding up leaves shards without any
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
