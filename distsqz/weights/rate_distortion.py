"""Quantises a layer with the symbols of least cost: bits, and damage to the network's predictions.

The error of one weight is compensated by the weights after it, as in Optimal Brain Compression (Frantar
and Alistarh, 2022, section 4) and GPTQ (Frantar et al., 2023, section 3), and what is left by the bias; here
each choice also pays for its bits, and coordinate descent over all of them follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distsqz.weights.curvature import Curvature

DAMPING = 0.04
"""Term added to the diagonal, as a share of its mean, so that inputs that always occur together remain
distinct."""
LEAST_OUTPUT = 0.1
"""Minimum importance of a filter, as a share of the mean: other images may need it more."""
SWEEPS = 3
"""Number of sweeps of coordinate descent. A fourth has almost no effect."""


@dataclass(frozen=True, kw_only=True)
class Trade:
    """The price of a bit, and the distances between levels that follow from it."""

    nats_per_bit: float
    """Reduction of damage, in nats per image, for which a bit may be spent."""
    coarseness: float = 1.5
    """Factor on the steps that are best for uniform noise at a high rate, found by trial."""

    def step(self, curvature: Curvature) -> float:
        """Distance between levels of a layer's weights.

        What the later weights cannot compensate is the curvature here.
        """
        left = _triangle(curvature).diagonal()[:-1].log().mean() * -2
        return self.coarseness * self._fine_step(left + _outputs(curvature).log().mean())

    def bias_step(self, curvature: Curvature) -> float:
        """Distance between levels of a layer's biases."""
        return self._fine_step((curvature.bias.double().mean() / 2 + 1e-12).log())

    def _fine_step(self, log_curvature: Tensor) -> float:
        # With fine levels the error is uniform over a step and costs step^2 / 12 times the curvature;
        # doubling the step saves a bit. Both balance at step^2 = 6 nats_per_bit / ln 2 / curvature.
        return math.sqrt(6 * self.nats_per_bit / math.log(2) * math.exp(-log_curvature.item()))


def quantise(
    weight: Tensor, bias: Tensor, curvature: Curvature, step: float, trade: Trade
) -> tuple[Tensor, Tensor]:
    """Symbols int32 [O, d] for weights [O, d], and adjusted biases [O], which are not quantised."""
    goal = torch.cat([weight.double(), bias.double()[:, None]], 1) / step
    inputs, triangle, outputs = _inputs(curvature), _triangle(curvature), _outputs(curvature) * step**2
    order = _order(curvature)
    goal, inputs = goal[:, order], inputs[order][:, order]
    largest = int(goal[:, :-1].abs().max()) + 3
    symbols = torch.cat([goal[:, :-1].round(), goal[:, -1:]], 1)
    for _ in range(2):  # bits depend on the symbols, which depend on the bits
        symbols = _compensate(goal, triangle, outputs, trade.nats_per_bit * _bits(symbols, largest), largest)
        _descend(symbols, goal, inputs, outputs, trade.nats_per_bit * _bits(symbols, largest), largest)
    symbols = symbols[:, order.argsort()]
    return symbols[:, :-1].int(), (symbols[:, -1] * step).float()


def damage(weight_error: Tensor, bias_error: Tensor, curvature: Curvature) -> float:
    """Damage of errors in weights [O, d] and biases [O], in nats per image by the curvature.

    Curvature is of softened answers, so that this is a measure to compare by and not the answers' divergence.
    """
    error = torch.cat([weight_error, bias_error[:, None]], 1).double()
    by_filter = ((error @ curvature.inputs.double()) * error).sum(1)
    return (by_filter @ curvature.outputs.double() / 2).item()


def _outputs(curvature: Curvature) -> Tensor:
    outputs = curvature.outputs.double()
    return (outputs + LEAST_OUTPUT * outputs.mean() + 1e-12) / 2  # the constant keeps it above 0


def _inputs(curvature: Curvature) -> Tensor:
    inputs = curvature.inputs.double()
    damping = torch.full((len(inputs),), DAMPING, dtype=torch.double)
    damping[-1] = 1e-6  # the bias's input is always 1
    scale = inputs.diagonal()[:-1].mean() + 1e-9  # all inputs may be zero
    return inputs + scale * damping.diag()


def _order(curvature: Curvature) -> Tensor:
    """Order of the inputs: the most important first, so that later ones compensate; the bias last."""
    weights = _inputs(curvature).diagonal()[:-1].argsort(descending=True, stable=True)
    return torch.cat([weights, torch.tensor([len(weights)])])


def _triangle(curvature: Curvature) -> Tensor:
    """Upper Cholesky factor of the inverse, in that order."""
    order = _order(curvature)
    triangle: Tensor = torch.linalg.cholesky(
        torch.linalg.inv(_inputs(curvature)[order][:, order]), upper=True
    )
    return triangle


def _bits(symbols: Tensor, largest: int) -> Tensor:
    """Cost in bits of each symbol from -largest to largest, by the frequencies of current symbols."""
    symbols = symbols[:, :-1].clamp(-largest, largest) + largest
    counts = torch.bincount(symbols.flatten().long(), minlength=2 * largest + 1)
    distance = torch.arange(-largest, largest + 1, dtype=torch.double).abs()
    counts = (
        counts + 0.5 * torch.exp(-0.2 * distance) + 1e-3
    )  # symbols not used yet are expensive, not impossible
    bits: Tensor = -(counts / counts.sum()).log2()
    return bits


def _compensate(goal: Tensor, triangle: Tensor, outputs: Tensor, cost: Tensor, largest: int) -> Tensor:
    goal = goal.clone()
    symbols = torch.zeros_like(goal)
    for index in range(goal.shape[1] - 1):
        scale = triangle[index, index]
        symbols[:, index] = _cheapest(goal[:, index], None, outputs / scale**2, cost, largest)
        error = (goal[:, index] - symbols[:, index]) / scale
        goal[:, index + 1 :] -= error[:, None] * triangle[index, index + 1 :]
    symbols[:, -1] = goal[:, -1]
    return symbols


def _descend(
    symbols: Tensor, goal: Tensor, inputs: Tensor, outputs: Tensor, cost: Tensor, largest: int
) -> None:
    """Changes one column of the symbols after the other, in place, to the best given all others."""
    slope = (goal - symbols) @ inputs
    for _ in range(SWEEPS):
        for index in range(goal.shape[1]):
            best = symbols[:, index] + slope[:, index] / inputs[index, index]
            if index < goal.shape[1] - 1:
                curve = outputs * inputs[index, index]
                best = _cheapest(best, symbols[:, index], curve, cost, largest)
            change = best - symbols[:, index]
            slope -= change[:, None] * inputs[index]
            symbols[:, index] = best


def _cheapest(best: Tensor, now: Tensor | None, curve: Tensor, cost: Tensor, largest: int) -> Tensor:
    """For each filter the symbol of least cost among the neighbours of `best`, 0 and `now`.

    Without a symbol that it has now, one nearer zero than those beside `best`.
    """
    below = best.floor()
    if now is None:
        now = torch.where(below < 0, (below + 2).clamp(max=0), (below - 1).clamp(min=0))  # one nearer zero
    choices = torch.stack([below, below + 1, torch.zeros_like(below), now]).clamp(-largest, largest)
    damage = curve * (best - choices).square() + cost[(choices + largest).long()]
    chosen: Tensor = choices.gather(0, damage.argmin(0, keepdim=True))[0]
    return chosen
