"""Pruning: which weights stay, chosen by magnitude, and training that keeps the others at zero.

Source: Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks" (2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from distsqz.weights.fine_tune import Free

Masks = dict[str, Tensor]
"""Parameter's name -> bool tensor of its shape, True where a weight stays."""


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights, not the biases, of convolutions and linear layers, by their names in the state dict."""
    return {
        f"{path}.weight" if path else "weight": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    }


def magnitude_masks(model: nn.Module, densities: Mapping[str, float]) -> Masks:
    """Keeps the largest weights, so that each group of layers has exactly the density asked of it.

    A group shares one threshold. One for each layer, in proportion to the deviation of its weights as in the
    2015 paper, loses more: it thins out layers of few and large weights as much as the others.

    Args:
        model: whose weights are ranked.
        densities: prefix of the weights' names -> share of the group's weights that stay, rounded to a whole
            number of weights; a weight belongs to the longest prefix of its name, "" takes all the others.
    """
    weights = prunable(model)
    masks: Masks = {}
    for prefix, names in groups(list(weights), densities).items():
        if names:
            masks |= _keep_largest({name: weights[name] for name in names}, densities[prefix])
    return masks


def groups(names: Sequence[str], prefixes: Mapping[str, object]) -> dict[str, list[str]]:
    """Prefix -> the names that it is the longest prefix of, in whole parts of the path between dots."""
    found: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    for name in names:
        fitting = [prefix for prefix in prefixes if f"{name}.".startswith(f"{prefix}." if prefix else "")]
        if fitting:
            found[max(fitting, key=len)].append(name)
    return found


def _keep_largest(weights: Mapping[str, Tensor], density: float) -> Masks:
    magnitudes = torch.cat([weight.detach().reshape(-1).abs() for weight in weights.values()])
    kept = torch.zeros(len(magnitudes), dtype=torch.bool)
    kept[magnitudes.topk(round(density * len(magnitudes)), sorted=False).indices] = True
    parts = torch.split(kept, [weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def gradual_density(density: float, round_: int, rounds: int) -> float:
    """The density after `round_` of `rounds`, counted from 1: fast at first, when most weights are idle.

    Source: Zhu, Gupta, "To prune, or not to prune" (2017), equation 1.
    """
    return density + (1 - density) * (1 - round_ / rounds) ** 3


@contextmanager
def dropout_for(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """While it lasts dropout is weaker before a pruned layer, which has less capacity to overfit with.

    Its probability is multiplied by the root of the density of the layer that follows it in the model's order
    (the 2015 paper, section 3.2).
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
    """Pruned weights are zero and stay so; the others and all that is not masked are learnt."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Prunes `model` in place."""
        super().__init__(model)
        parameters = prunable(model)
        self._masked = [(parameters[name], mask) for name, mask in masks.items()]
        with torch.no_grad():
            for weight, mask in self._masked:
                weight.mul_(mask)

    def before_update(self) -> None:
        """No gradient reaches a pruned weight: neither momentum nor weight decay moves it from zero then."""
        for weight, mask in self._masked:
            if weight.grad is not None:
                weight.grad.mul_(mask)
