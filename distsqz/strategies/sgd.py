"""Torch's SGD, fused if the fused kernel is correct."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_FUSED_DTYPES = (torch.float32, torch.float64)


def can_fuse(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether torch's fused SGD updates these parameters.

    On a CPU it does not change bfloat16 and float16 parameters, without an error, and refuses complex
    numbers.
    """
    return all(parameter.is_cuda or parameter.dtype in _FUSED_DTYPES for parameter in parameters)


def sgd_of(
    module: nn.Module, momentum: float, weight_decay: float, *, all_used: bool = True
) -> torch.optim.SGD:
    """Creates the optimizer of all parameters of a model, with a learning rate of 0.

    Args:
        module: the model.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        all_used: whether every trained parameter has a gradient in every step. Torch's fused SGD fails if a
            parameter has its first gradient later than others.
    """
    parameters = list(module.parameters())
    fused = all_used and can_fuse(parameter for parameter in parameters if parameter.requires_grad)
    return torch.optim.SGD(parameters, lr=0.0, momentum=momentum, weight_decay=weight_decay, fused=fused)
