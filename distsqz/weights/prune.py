"""Pruning by magnitude, and training that keeps pruned weights at zero.

Source: Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks" (2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distsqz.weights.fine_tune import Free

Masks = dict[str, Tensor]
"""Bool tensors by the name of the parameter, of its shape; True for weights that are kept."""


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Weights (not biases) of convolutions and linear layers, by name in the state dict."""
    return {
        f"{path}.weight" if path else "weight": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    }


def magnitude_masks(model: nn.Module, densities: Mapping[str, float]) -> Masks:
    """Selects the largest weights, so that each group of layers has exactly the requested density.

    A group has one threshold. Thresholds by layer, in proportion to the standard deviation of its weights as
    in the 2015 paper, lose more accuracy: they prune layers of few, large weights as much as the others.

    Args:
        model: the model.
        densities: share of the weights that are kept, by group. A group is a prefix of the weights' names; a
            weight belongs to the longest prefix of its name, and to "" if no other matches. Shares are
            rounded to a whole number of weights.
    """
    weights = prunable(model)
    masks: Masks = {}
    for prefix, names in groups(list(weights), densities).items():
        if names:
            masks |= _keep_largest({name: weights[name] for name in names}, densities[prefix])
    return masks


def groups(names: Sequence[str], prefixes: Mapping[str, object]) -> dict[str, list[str]]:
    """Names by the longest prefix that they match. Prefixes match whole components of the dotted path."""
    members: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for name in names:
        fitting = [prefix for prefix in prefixes if f"{name}.".startswith(f"{prefix}." if prefix else "")]
        if fitting:
            members[max(fitting, key=len)].append(name)
    return members


def _keep_largest(weights: Mapping[str, Tensor], density: float) -> Masks:
    magnitudes = torch.cat([weight.detach().reshape(-1).abs() for weight in weights.values()])
    kept = torch.zeros(len(magnitudes), dtype=torch.bool)
    kept[magnitudes.topk(round(density * len(magnitudes)), sorted=False).indices] = True
    parts = torch.split(kept, [weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def gradual_density(density: float, round_: int, rounds: int) -> float:
    """The density after a round of pruning. It falls fast at first, when most weights are redundant.

    Source: Zhu, Gupta, "To prune, or not to prune" (2017), equation 1.

    Args:
        density: density after the last round.
        round_: number of the round, counted from 1.
        rounds: number of all rounds.
    """
    return density + (1 - density) * (1 - round_ / rounds) ** 3


@contextmanager
def dropout_for(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which dropout before pruned layers is weaker, because they have less capacity to overfit.

    The probability of dropout is multiplied by the square root of the density of the layer that follows it in
    the model (the 2015 paper, section 3.2).
    """
    before: dict[nn.Dropout, float] = {}
    waiting: list[nn.Dropout] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            waiting.append(module)
        elif f"{path}.weight" in masks:
            for dropout in waiting:
                before[dropout] = dropout.p
                dropout.p *= float(masks[f"{path}.weight"].float().mean().sqrt())
            waiting = []
    try:
        yield
    finally:
        for dropout, probability in before.items():
            dropout.p = probability


class Masked(Free):
    """A constraint: pruned weights stay zero; all other parameters are trained."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Prunes `model` in place."""
        super().__init__(model)
        parameters = prunable(model)
        self._masked = [(parameters[name], mask) for name, mask in masks.items()]
        with torch.no_grad():
            for weight, mask in self._masked:
                weight.mul_(mask)

    def before_update(self) -> None:
        """Zeroes the gradients of pruned weights, so that momentum and weight decay leave them at zero."""
        for weight, mask in self._masked:
            if weight.grad is not None:
                weight.grad.mul_(mask)
