"""Weight sharing: a layer's weights take a few values, found by k-means and then trained.

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
"""Of k-means at most; it settles in fewer."""


def k_means(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most `count` values, ascending, that stand for `values` [n]: each the mean of those nearest it.

    Starts from values spaced evenly from least to greatest, which keeps the rare large weights well
    represented (section 3.2). A value that comes to stand for nothing is left out.
    """
    if len(values) == 0:
        return np.empty(0, np.float32)
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], count) if count > 1 else ordered[:1]
    for _ in range(ITERATIONS):
        # On a line a cluster is a stretch between two midpoints, so that its sum is a difference of sums.
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
    """Which of the ascending `centres` is nearest to each value."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


def uniform(values: NDArray[np.float32], bits: int) -> Quantised:
    """The nearest of evenly spaced values, zero among them; for biases, too few to pay for a codebook."""
    highest = 2 ** (bits - 1) - 1
    step = np.float32(np.abs(values).max(initial=0.0) / highest) or np.float32(1.0)
    return Quantised(np.rint(values / step).astype(np.int32), step=float(step))


def from_codebook(values: NDArray[np.float32]) -> Quantised:
    """A tensor that takes few distinct values, exactly."""
    kept = values != 0
    others, which = np.unique(values[kept], return_inverse=True)
    zero = int(np.searchsorted(others, 0))
    symbols = np.zeros(values.shape, np.int32)
    symbols[kept] = np.where(which < zero, which - zero, which - zero + 1)
    return Quantised(symbols, codebook=np.insert(others, zero, 0).astype(np.float32), zero=zero)


class Shared:
    """The nonzero weights of each layer take the layer's shared values, which are learnt in their place.

    Biases are learnt as they are, and zeros stay zero.
    """

    def __init__(self, model: nn.Module, bits: Mapping[str, int]) -> None:
        """Rounds the weights of `model` in place to 2^bits values a layer, zero included.

        Args:
            model: pruned or not.
            bits: by the weight's name in the state dict.
        """
        weights = prunable(model)
        self._layers = [_SharedLayer(weights[name], count) for name, count in bits.items()]
        shared = {id(layer.weight) for layer in self._layers}
        others = [one for one in model.parameters() if one.requires_grad and id(one) not in shared]
        self.learnt = [*(layer.codebook for layer in self._layers), *others]

    def before_update(self) -> None:
        """Gradients are summed by shared value (equation 3)."""
        for layer in self._layers:
            layer.gather()

    def after_update(self) -> None:
        """Every weight takes its shared value."""
        for layer in self._layers:
            layer.spread()


class _SharedLayer:
    """One layer's weights and what they are made of."""

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
        """From the weights' gradients to the shared values'."""
        if self.weight.grad is None:
            return
        gradient = self.weight.grad.reshape(-1)[self._positions]
        summed = torch.bincount(self._members, weights=gradient, minlength=len(self.codebook))
        # A sum over thousands of weights would need a learning rate of its own for each shared value. Divided
        # by their number, the step is the one that training of single weights would make on average.
        self.codebook.grad = (summed / self._sizes).to(self.codebook.dtype)

    def spread(self) -> None:
        """From the shared values to the weights."""
        with torch.no_grad():
            flat: Tensor = torch.zeros(self.weight.numel())
            flat[self._positions] = self.codebook.detach()[self._members]
            self.weight.copy_(flat.view(self.weight.shape))
