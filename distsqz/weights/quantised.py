"""What compression makes of a tensor: whole numbers, and the values they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distsqz.models.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Quantised:
    """A tensor as symbols: `symbol * step`, or the codebook's value for it where there is one."""

    symbols: NDArray[np.int32]
    """In the tensor's shape; 0 stands for a pruned weight in either case."""
    step: float = 1.0
    """Distance between neighbouring values; kept in 32 bits."""
    codebook: NDArray[np.float32] | None = None
    """Shared values in ascending order, the one at `zero` being 0; symbol s stands for codebook[zero + s]."""
    zero: int = 0

    @property
    def values(self) -> NDArray[np.float32]:
        """The fp32 tensor that the symbols stand for."""
        if self.codebook is not None:
            return np.asarray(self.codebook[self.symbols + self.zero])  # numpy makes a scalar of a 0-d array
        return np.asarray(self.symbols.astype(np.float32) * np.float32(self.step))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which model the weights belong to, with all that a builder of it must know."""

    name: str
    """A name of the registry, or package.module:factory."""
    num_classes: int
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    squeeze_ratio: float | None = None
    pct_3x3: float | None = None
    classifier_padding: int = 0
    """SqueezeNet: pixels that conv10 pads its input with; 1 in Caffe's v1.0, 0 everywhere else."""


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """What an archive holds."""

    info: ModelInfo
    tensors: Mapping[str, Quantised]
    """By their names in the state dict, in its order."""

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The state dict, as numpy arrays."""
        return {name: tensor.values for name, tensor in self.tensors.items()}
