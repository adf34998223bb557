"""How a model's parameters are cut: into chunks that travel alone, dealt to the shards that own them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from distsqz.errors import RequestError

CHUNK_BYTES = 4 << 20
"""Large enough that a message's own cost is lost in it; small enough that many are under way at once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one parameter, in elements of its memory."""

    parameter: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What travels in one message: neighbouring parameters, or a part of a large one."""

    index: int
    """In the order of the parameters, which is that of the forward pass."""
    shard: int
    pieces: tuple[Piece, ...]

    @property
    def elements(self) -> int:
        """How many it has."""
        return sum(piece.end - piece.begin for piece in self.pieces)


def plan_layout(
    elements: Sequence[int], shards: int, element_bytes: int = 4, chunk_bytes: int = CHUNK_BYTES
) -> list[Chunk]:
    """Cuts the parameters, laid end to end, into equal chunks and deals them to the shards in turn.

    Shards thus own the same number of bytes to within one element a chunk, however unequal the parameters are
    (AlexNet's fc6 alone is 62% of the model), and at any moment of a pass all of them have work.

    Args:
        elements: of each parameter, in the order of the forward pass.
        shards: that own the chunks.
        element_bytes: of one element.
        chunk_bytes: about the size of a chunk, in bytes; smaller where shards would go without one.

    Raises:
        RequestError: there are more shards than elements.
    """
    total = sum(elements)
    if not 1 <= shards <= total:
        raise RequestError(f"--servers {shards}: 1 to {total}, the elements that there are to own")
    rounds = max(1, -(-total * element_bytes // (chunk_bytes * shards)))
    count = min(total, rounds * shards)
    cuts = [total * index // count for index in range(count + 1)]
    starts = [sum(elements[:parameter]) for parameter in range(len(elements) + 1)]
    return [
        Chunk(index, index % shards, _pieces(starts, cuts[index], cuts[index + 1])) for index in range(count)
    ]


def _pieces(starts: Sequence[int], begin: int, end: int) -> tuple[Piece, ...]:
    """The parts of the parameters between two places of them all laid end to end."""
    return tuple(
        Piece(parameter, max(begin, start) - start, min(end, stop) - start)
        for parameter, (start, stop) in enumerate(itertools.pairwise(starts))
        if start < end and begin < stop and start < stop
    )
