"""A gradient chunk on its way to a shard: a row of gradients with a header behind it, in one message."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch

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

    def write(self, message: torch.Tensor) -> None:
        """Puts it at the end of a message."""
        HEADER.pack_into(*_place(message), self.chunk, self.version, self.lr, self.step)

    @classmethod
    def read(cls, message: torch.Tensor) -> PushHeader:
        """The header of a message."""
        return cls(*HEADER.unpack_from(*_place(message)))


def new_message(chunk_elements: int, dtype: torch.dtype) -> torch.Tensor:
    """A place for one chunk and its header."""
    return torch.zeros(chunk_elements + HEADER.size // dtype.itemsize, dtype=dtype)


def _place(message: torch.Tensor) -> tuple[memoryview, int]:
    """A message's bytes, and where its header begins."""
    return message.view(torch.uint8).numpy().data, message.nbytes - HEADER.size
