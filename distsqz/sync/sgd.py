"""Torch's SGD, fused where the fused kernel does what it should."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_FUSED_DTYPES = (torch.float32, torch.float64)


def can_fuse(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether torch's fused SGD updates such parameters.

    On a CPU it leaves bfloat16 and float16 unchanged, without an error, and refuses complex numbers.
    """
    return all(parameter.is_cuda or parameter.dtype in _FUSED_DTYPES for parameter in parameters)


def sgd_of(
    module: nn.Module, momentum: float, weight_decay: float, *, all_used: bool = True
) -> torch.optim.SGD:
    """The optimizer of all parameters of a model; its learning rate is 0 until it is set.

    Args:
        module: the model.
        momentum: of SGD.
        weight_decay: of SGD.
        all_used: whether every trained parameter has a gradient in every step. Torch's fused SGD fails where
            a parameter has its first gradient later than others.
    """
    parameters = list(module.parameters())
    fused = all_used and can_fuse(parameter for parameter in parameters if parameter.requires_grad)
    return torch.optim.SGD(parameters, lr=0.0, momentum=momentum, weight_decay=weight_decay, fused=fused)
