"""Tensors handed from one process to another in anonymous memory.

torch itself would use /dev/shm, which holds 64 MB in Docker's containers by default, and sockets in TMPDIR,
whose paths may be too long.
"""

from __future__ import annotations

import math
import os
from collections import deque
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor


@dataclass(frozen=True)
class Handle:
    """Reference to a tensor in the memory of another process on this host."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def open(self) -> Tensor:
        """Maps the tensor without a copy. It outlives the process that created it.

        Raises:
            RuntimeError: that process has ended or has dropped the tensor.
        """
        tensor = torch.from_file(self.path, size=math.prod(self.shape), dtype=self.dtype)
        return tensor.view(self.shape)


class Outgoing:
    """Keeps the tensors that a process handed out most recently."""

    def __init__(self, keep: int) -> None:
        """Prepares to hand out tensors.

        Args:
            keep: number of tensors that are kept. The oldest is dropped for the next.
        """
        self._files: deque[BinaryIO] = deque(maxlen=keep)

    def put(self, tensor: Tensor) -> Handle:
        """Copies a tensor into anonymous memory, where another process of the same user can open it."""
        file = os.fdopen(os.memfd_create("tensor"), "wb", buffering=0)
        self._files.append(file)
        content = tensor.contiguous().numpy().data.cast("B")
        while content:  # the kernel takes 2 GiB at most in one call
            content = content[file.write(content) :]
        return Handle(f"/proc/{os.getpid()}/fd/{file.fileno()}", tuple(tensor.shape), tensor.dtype)
