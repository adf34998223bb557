"""Quantises a layer: the symbols that cost least, counting bits and the damage to the network's answers.

The error of one weight is compensated by the weights after it, as in Optimal Brain Compression (Frantar
and Alistarh, 2022, section 4) and GPTQ (Frantar et al., 2023, section 3); here each choice also pays for its
bits, and coordinate descent over all of them follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distsqz.compression.curvature import Curvature

DAMPING = 0.02
"""Added to the diagonal, as a share of its mean: inputs never seen apart are not taken for the same."""
SWEEPS = 3
"""Of coordinate descent; a fourth changes next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Trade:
    """What a bit is worth."""

    nats_per_bit: float
    """A bit may be spent where it lowers the KL divergence by this much, in nats an image."""
    coarseness: float = 1.5
    """Steps, as a multiple of what is best for uniform noise at a high rate; found by trial."""


def choose_step(curvature: Curvature, trade: Trade) -> float:
    """The distance between levels that suits `trade` for a layer.

    With fine levels an error is spread evenly over a step, and costs step^2 / 12 times half the curvature;
    the rate falls by a bit as the step doubles. Both balance where step^2 is 6 nats_per_bit / ln 2 over half
    the curvature.
    What the later weights cannot compensate is the curvature here.
    """
    left = -2 * _triangle(curvature).diagonal().log().mean()
    outputs = _outputs(curvature).log().mean()
    squared = 6 * trade.nats_per_bit / math.log(2) * torch.exp(-left - outputs)
    return float(trade.coarseness * squared.sqrt())


def quantise(weight: Tensor, curvature: Curvature, step: float, trade: Trade) -> Tensor:
    """Symbols [O, d], as int32, for weights [O, d]."""
    weight, outputs = weight.double() / step, _outputs(curvature) * step**2
    triangle, inputs = _triangle(curvature), _damped(curvature)
    largest = int(weight.abs().max()) + 3
    # The inputs that matter most first: the others are left to compensate.
    order = inputs.diagonal().argsort(descending=True, stable=True)
    weight = weight[:, order]
    symbols = weight.round()
    for _ in range(2):  # bits depend on the symbols, which depend on the bits
        cost = trade.nats_per_bit * _bits(symbols, largest)
        symbols = _compensate(weight, triangle, outputs, cost, largest)
        cost = trade.nats_per_bit * _bits(symbols, largest)
        _descend(symbols, weight, inputs[order][:, order], outputs, cost, largest)
    return symbols[:, order.argsort()].int()


def _outputs(curvature: Curvature) -> Tensor:
    outputs = curvature.outputs.double()
    return (outputs + 1e-3 * outputs.mean()) / 2


def _damped(curvature: Curvature) -> Tensor:
    inputs = curvature.inputs.double()
    return inputs + DAMPING * inputs.diagonal().mean() * torch.eye(len(inputs), dtype=torch.double)


def _triangle(curvature: Curvature) -> Tensor:
    """Upper Cholesky factor of the inverse, inputs that matter most first."""
    inputs = _damped(curvature)
    order = inputs.diagonal().argsort(descending=True, stable=True)
    triangle: Tensor = torch.linalg.cholesky(torch.linalg.inv(inputs[order][:, order]), upper=True)
    return triangle


def _bits(symbols: Tensor, largest: int) -> Tensor:
    """What each symbol from -largest to largest costs under the frequencies of `symbols`, in bits."""
    counts = torch.bincount(
        (symbols.clamp(-largest, largest) + largest).flatten().long(), minlength=2 * largest + 1
    )
    distance = torch.arange(-largest, largest + 1, dtype=torch.double).abs()
    counts = counts + 0.5 * torch.exp(-0.2 * distance) + 1e-3  # a symbol not seen yet is dear, not forbidden
    bits: Tensor = -(counts / counts.sum()).log2()
    return bits


def _compensate(weight: Tensor, triangle: Tensor, outputs: Tensor, cost: Tensor, largest: int) -> Tensor:
    weight = weight.clone()
    symbols = torch.zeros_like(weight)
    for index in range(weight.shape[1]):
        scale = triangle[index, index]
        symbols[:, index] = _cheapest(weight[:, index], None, outputs / scale**2, cost, largest)
        error = (weight[:, index] - symbols[:, index]) / scale
        weight[:, index + 1 :] -= error[:, None] * triangle[index, index + 1 :]
    return symbols


def _descend(
    symbols: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor, cost: Tensor, largest: int
) -> None:
    """Changes one column of `symbols` after the other, in place, to what is best given all others."""
    for _ in range(SWEEPS):
        slope = (weight - symbols) @ inputs
        for index in range(weight.shape[1]):
            curve = inputs[index, index]
            best = symbols[:, index] + slope[:, index] / curve
            chosen = _cheapest(best, symbols[:, index], outputs * curve, cost, largest)
            change = chosen - symbols[:, index]
            if change.any():
                slope -= change[:, None] * inputs[index]
                symbols[:, index] = chosen


def _cheapest(best: Tensor, now: Tensor | None, curve: Tensor, cost: Tensor, largest: int) -> Tensor:
    """For each filter the symbol of least damage and bits: beside `best`, 0, or as it is `now`."""
    below = best.floor()
    nearer_zero = below - below.sign() if now is None else now
    choices = torch.stack([below, below + 1, torch.zeros_like(below), nearer_zero]).clamp(-largest, largest)
    damage = curve * (best - choices).square() + cost[(choices + largest).long()]
    chosen: Tensor = choices.gather(0, damage.argmin(0, keepdim=True))[0]
    return chosen
