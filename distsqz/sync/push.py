"""A gradient chunk on its way to a shard: a row of float32 with a header behind it, in one message."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch

HEADER = struct.Struct("=iid")
HEADER_ELEMENTS = HEADER.size // 4

FAREWELL = -1
"""Instead of a chunk: the worker is done."""


@dataclass(frozen=True, slots=True)
class PushHeader:
    """What a shard has to know about the gradients before it."""

    chunk: int
    version: int
    """Of the parameters that they are for: updates made when the worker received them."""
    lr: float

    def write(self, message: torch.Tensor) -> None:
        """Puts it at the end of a message."""
        HEADER.pack_into(message.numpy().data, _place(message), self.chunk, self.version, self.lr)

    @classmethod
    def read(cls, message: torch.Tensor) -> PushHeader:
        """The header of a message."""
        return cls(*HEADER.unpack_from(message.numpy().data, _place(message)))


def new_message(chunk_elements: int) -> torch.Tensor:
    """A place for one chunk and its header."""
    return torch.zeros(chunk_elements + HEADER_ELEMENTS)


def _place(message: torch.Tensor) -> int:
    return (message.numel() - HEADER_ELEMENTS) * message.element_size()
