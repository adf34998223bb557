"""Compression of trained weights with a few images and no training, to a size or to a loss of accuracy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from distsqz.errors import RequestError
from distsqz.weights.archive import encode
from distsqz.weights.curvature import Curvature, compressible_layers, groups_of
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised
from distsqz.weights.rate_distortion import Trade, damage, quantise

PROBES = 10
"""Number of prices of a bit that are tried. Each halves an interval that spans a factor of 100,000."""
MOST_INPUTS = 4608
"""Maximum number of inputs of a filter (512 channels, 3x3). The time grows with its cube; above, it takes
hours."""
LARGEST_SYMBOL, LARGEST_BIAS_SYMBOL = 1 << 14, 1 << 20
LEAST_NATS_PER_BIT, MOST_NATS_PER_BIT = 1e-10, 1e-5


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model compressed at one price of a bit."""

    trade: Trade
    model: CompressedModel
    archive: bytes
    damage_nats: Mapping[str, float]
    """Divergence that each layer adds, in nats per image by its curvature. It serves to compare layers."""


def check_compressible(model: nn.Module, info: ModelInfo) -> None:
    """Checks that a model can be compressed by calibration.

    Raises:
        RequestError: it has parameters or buffers outside of convolutions and linear layers, a layer with too
            many inputs, or a layer that does not pad with a fixed number of zeros.
    """
    layers = compressible_layers(model)
    held = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    if other := sorted(set(model.state_dict()) - held):
        raise RequestError(
            f"{info.name}: holds {other[0]!r}; what can be compressed are weights and biases of convolutions "
            "and linear layers"
        )
    for name, layer in layers.items():
        if (inputs := layer.weight[0].numel()) > MOST_INPUTS:
            raise RequestError(
                f"{info.name}: each output of {name} weighs {inputs:,} inputs, and `calibration` can compare "
                f"at most {MOST_INPUTS:,} with each other; compress it with `data` instead"
            )
        if isinstance(layer, nn.Conv2d) and (isinstance(layer.padding, str) or layer.padding_mode != "zeros"):
            raise RequestError(f"{info.name}: {name} must pad with zeros, as many as a number says")


def compress(
    model: nn.Module, info: ModelInfo, curvatures: Mapping[str, Sequence[Curvature]], trade: Trade
) -> Candidate:
    """Quantises the weights and biases of every layer of `model`, and encodes them.

    Raises:
        RequestError: `check_compressible` refuses the model.
    """
    check_compressible(model, info)
    layers = compressible_layers(model)
    quantised: dict[str, Quantised] = {}
    damages: dict[str, float] = {}
    for name, layer in layers.items():
        weight, bias, damages[name] = _compress_layer(layer, curvatures[name], trade)
        quantised[f"{name}.weight"] = weight
        if bias is not None:
            quantised[f"{name}.bias"] = bias
    whole = CompressedModel(info, {key: quantised[key] for key in model.state_dict()})
    return Candidate(trade, whole, encode(whole), damages)


def _compress_layer(
    layer: nn.Conv2d | nn.Linear, curvatures: Sequence[Curvature], trade: Trade
) -> tuple[Quantised, Quantised | None, float]:
    weight = layer.weight.detach().flatten(1)
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    step = math.exp(sum(math.log(trade.step(curvature)) for curvature in curvatures) / len(curvatures))
    step = max(step, weight.abs().max().item() / LARGEST_SYMBOL, torch.finfo(torch.float32).tiny)
    symbols, biases, lost = [], [], 0.0
    for curvature, group in zip(curvatures, groups_of(layer), strict=True):
        chosen, moved = quantise(weight[group], bias[group], curvature, step, trade)
        symbols.append(chosen)
        biases.append(moved if layer.bias is not None else bias[group])
        lost += damage(weight[group] - chosen * step, bias[group] - biases[-1], curvature)
    whole = Quantised(torch.cat(symbols).view(layer.weight.shape).numpy(), step)
    if layer.bias is None:
        return whole, None, lost
    fine = math.exp(sum(math.log(trade.bias_step(curvature)) for curvature in curvatures) / len(curvatures))
    fine = max(fine, bias.abs().max().item() / LARGEST_BIAS_SYMBOL)
    return whole, Quantised((torch.cat(biases) / fine).round().int().numpy(), fine), lost


def search(
    compress_at: Callable[[Trade], Candidate], suits: Callable[[Candidate], bool], *, smallest: bool
) -> Candidate | None:
    """Searches for the best price of a bit by bisection; None if no candidate is suitable.

    Args:
        compress_at: compresses the model at a price.
        suits: whether a candidate is suitable.
        smallest: whether the highest suitable price is sought (for a limit on the loss of accuracy) or the
            lowest (for a limit on the size).
    """
    low, high = math.log(LEAST_NATS_PER_BIT), math.log(MOST_NATS_PER_BIT)
    best = None
    for _ in range(PROBES):
        middle = (low + high) / 2
        candidate = compress_at(Trade(nats_per_bit=math.exp(middle)))
        if suitable := suits(candidate):
            best = candidate
        if suitable == smallest:
            low = middle
        else:
            high = middle
    return best


def install(model: nn.Module, compressed: CompressedModel) -> nn.Module:
    """A copy of `model` with the values of the compressed weights."""
    twin = copy.deepcopy(model)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in compressed.state().items()})
    return twin
