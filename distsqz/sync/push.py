"""A gradient chunk on its way to a shard: a row of gradients with a header behind it, in one message."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch

from distsqz.sync.layout import Layout

HEADER = struct.Struct("=iidq")
"""24 bytes: a whole number of elements, whatever their size."""

FAREWELL = -1
"""Instead of a chunk: the worker is done."""


@dataclass(frozen=True, slots=True)
class PushHeader:
    """What a shard has to know about the gradients before it."""

    chunk: int
    version: int
    """Of the parameters that they are for: updates made when the worker received them."""
    lr: float
    step: int
    """The worker's step that they are from."""
    unused: int = 0
    """Bit i is set where the i-th piece of the chunk is of a parameter that had no gradient."""

    def write(self, message: torch.Tensor, layout: Layout) -> None:
        """Puts it at the end of a message."""
        place, size = _bytes(message), layout.piece_bits_bytes
        HEADER.pack_into(place, message.nbytes - HEADER.size, self.chunk, self.version, self.lr, self.step)
        begin = message.nbytes - HEADER.size - size
        place[begin : begin + size] = self.unused.to_bytes(size, "little")

    @classmethod
    def read(cls, message: torch.Tensor, layout: Layout) -> PushHeader:
        """The header of a message."""
        place, end = _bytes(message), message.nbytes - HEADER.size
        unused = int.from_bytes(place[end - layout.piece_bits_bytes : end], "little")
        chunk, version, lr, step = HEADER.unpack_from(place, end)
        return cls(chunk, version, lr, step, unused)


def new_message(layout: Layout, dtype: torch.dtype) -> torch.Tensor:
    """A place for one chunk and its header."""
    header_bytes = layout.piece_bits_bytes + HEADER.size
    return torch.zeros(layout.chunk_elements + header_bytes // dtype.itemsize, dtype=dtype)


def _bytes(message: torch.Tensor) -> memoryview:
    return message.view(torch.uint8).numpy().data
