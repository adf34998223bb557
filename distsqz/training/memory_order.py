"""Memory order of a model's filters: channels_last for tensors that can have it."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Lays out every parameter and buffer of four dimensions in `memory_format`, in place.

    Others have no channels_last order: `Module.to(memory_format=...)` fails on the filters of a 3-D
    convolution.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
