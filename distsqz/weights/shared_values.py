"""Weight sharing: the weights of a layer take few values, found by k-means and then trained.

Source: Han, Mao, Dally, "Deep Compression" (2016), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distsqz.weights.prune import prunable
from distsqz.weights.quantised import Quantised

ITERATIONS = 100
"""Maximum number of iterations of k-means, which converges in fewer."""


def k_means(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Centres of the k-means clusters of `values` [n]: at most `count`, ascending.

    The initial centres are spaced evenly from minimum to maximum, which represents the rare large weights
    well (section 3.2). Centres of empty clusters are left out.
    """
    if len(values) == 0:
        return np.empty(0, np.float32)
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], count) if count > 1 else ordered[:1]
    for _ in range(ITERATIONS):
        # In one dimension a cluster is an interval, so that its sum is a difference of cumulative sums.
        ends = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(bounds)
        used = sizes > 0
        means = np.diff(sums[bounds])[used] / sizes[used]
        if np.array_equal(means, centres):
            break
        centres = means
    return np.unique(centres.astype(np.float32))


def nearest(values: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index of the nearest of the ascending `centres` for each value."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


def uniform(values: NDArray[np.float32], bits: int) -> Quantised:
    """Quantises to evenly spaced values that include zero. For biases, which are too few for a codebook."""
    highest = 2 ** (bits - 1) - 1
    step = np.float32(np.abs(values).max(initial=0.0) / highest) or np.float32(1.0)
    return Quantised(np.rint(values / step).astype(np.int32), step=float(step))


def from_codebook(values: NDArray[np.float32]) -> Quantised:
    """Represents a tensor with few distinct values exactly, by a codebook."""
    kept = values != 0
    others, which = np.unique(values[kept], return_inverse=True)
    zero = int(np.searchsorted(others, 0))
    symbols = np.zeros(values.shape, np.int32)
    symbols[kept] = np.where(which < zero, which - zero, which - zero + 1)
    return Quantised(symbols, codebook=np.insert(others, zero, 0).astype(np.float32), zero=zero)


class Shared:
    """A constraint: nonzero weights of a layer take its shared values, which are trained instead.

    Biases are trained directly, and zeros stay zero.
    """

    def __init__(self, model: nn.Module, bits: Mapping[str, int]) -> None:
        """Rounds the weights of `model` in place to 2^bits values per layer, zero included.

        Args:
            model: the model, pruned or not.
            bits: number of bits by the name of the weight in the state dict.
        """
        weights = prunable(model)
        self._layers = [_SharedLayer(weights[name], count) for name, count in bits.items()]
        shared = {id(layer.weight) for layer in self._layers}
        others = [one for one in model.parameters() if one.requires_grad and id(one) not in shared]
        self.learnt = [*(layer.codebook for layer in self._layers), *others]

    def before_update(self) -> None:
        """Sums gradients by shared value (equation 3)."""
        for layer in self._layers:
            layer.gather()

    def after_update(self) -> None:
        """Sets every weight to its shared value."""
        for layer in self._layers:
            layer.spread()


class _SharedLayer:
    """The weights of one layer and their shared values."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        self.weight = weight
        flat = weight.detach().reshape(-1)
        self._positions = flat.nonzero().squeeze(1)
        values = flat[self._positions].numpy()
        centres = k_means(values, 2**bits - 1)
        self._members = torch.from_numpy(nearest(values, centres))
        self._sizes = torch.bincount(self._members, minlength=len(centres)).clamp_min(1)
        self.codebook = nn.Parameter(torch.from_numpy(centres))
        self.spread()

    def gather(self) -> None:
        """Computes the gradients of the shared values from those of the weights."""
        if self.weight.grad is None:
            return
        gradient = self.weight.grad.reshape(-1)[self._positions]
        summed = torch.bincount(self._members, weights=gradient, minlength=len(self.codebook))
        # Sums over thousands of weights would need a learning rate for each shared value. Divided by the
        # number of weights, the step is the average of the steps that the weights would make.
        self.codebook.grad = (summed / self._sizes).to(self.codebook.dtype)

    def spread(self) -> None:
        """Copies the shared values into the weights."""
        with torch.no_grad():
            flat: Tensor = torch.zeros(self.weight.numel())
            flat[self._positions] = self.codebook.detach()[self._members]
            self.weight.copy_(flat.view(self.weight.shape))
