"""The message that pushes a chunk to a shard: a row of gradients, followed by a header."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch

from distsqz.strategies.parameter_server.layout import Layout

HEADER = struct.Struct("=iidq")
"""Layout of the header, in 24 bytes: a whole number of elements of every supported data type."""

FAREWELL = -1
"""Chunk number of a message that says that the worker is done."""


@dataclass(frozen=True, slots=True)
class PushHeader:
    """Header of a push, which describes the gradients before it."""

    chunk: int
    version: int
    """Version of the parameters that the gradients belong to: updates made when the worker received them."""
    lr: float
    """Learning rate of the update."""
    step: int
    """Step of the worker that computed the gradients."""
    unused: int = 0
    """Bit i is set if the parameter of the i-th piece of the chunk has no gradient."""

    def write(self, message: torch.Tensor, layout: Layout) -> None:
        """Writes the header to the end of a message."""
        place, size = _bytes(message), layout.piece_bits_bytes
        HEADER.pack_into(place, message.nbytes - HEADER.size, self.chunk, self.version, self.lr, self.step)
        begin = message.nbytes - HEADER.size - size
        place[begin : begin + size] = self.unused.to_bytes(size, "little")

    @classmethod
    def read(cls, message: torch.Tensor, layout: Layout) -> PushHeader:
        """Reads the header of a message."""
        place, end = _bytes(message), message.nbytes - HEADER.size
        unused = int.from_bytes(place[end - layout.piece_bits_bytes : end], "little")
        chunk, version, lr, step = HEADER.unpack_from(place, end)
        return cls(chunk, version, lr, step, unused)


def new_message(layout: Layout, dtype: torch.dtype) -> torch.Tensor:
    """Creates a message with room for one chunk and its header."""
    header_bytes = layout.piece_bits_bytes + HEADER.size
    return torch.zeros(layout.chunk_elements + header_bytes // dtype.itemsize, dtype=dtype)


def _bytes(message: torch.Tensor) -> memoryview:
    return message.view(torch.uint8).numpy().data
