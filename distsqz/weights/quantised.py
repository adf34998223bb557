"""Quantised tensors: whole numbers, and the values that they represent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distsqz.models.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Quantised:
    """A tensor as symbols. A symbol s represents s * step, or a value of the codebook if there is one."""

    symbols: NDArray[np.int32]
    """Symbols in the shape of the tensor, int32. 0 represents a pruned weight."""
    step: float = 1.0
    """Distance between neighbouring values, stored in 32 bits."""
    codebook: NDArray[np.float32] | None = None
    """Shared values in ascending order; the value at index `zero` is 0. Symbol s represents codebook[zero +
    s]."""
    zero: int = 0

    @property
    def values(self) -> NDArray[np.float32]:
        """The fp32 values that the symbols represent."""
        if self.codebook is not None:
            return np.asarray(self.codebook[self.symbols + self.zero])  # numpy makes a scalar of a 0-d array
        return np.asarray(self.symbols.astype(np.float32) * np.float32(self.step))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that weights belong to, with everything needed to build it."""

    name: str
    """Name of a registered model, or package.module:factory."""
    num_classes: int
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    squeeze_ratio: float | None = None
    pct_3x3: float | None = None
    classifier_padding: int = 0
    """SqueezeNet only: pixels of padding around the input of conv10; 1 in Caffe's v1.0, otherwise 0."""


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """A compressed model: the content of an archive."""

    info: ModelInfo
    tensors: Mapping[str, Quantised]
    """Tensors by name, in the order of the state dict."""

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The state dict, as numpy arrays."""
        return {name: tensor.values for name, tensor in self.tensors.items()}
