"""PowerSGD: each gradient matrix as the product of two thin ones, which are all-reduced in its place.

Source: Vogels, Karimireddy and Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization" (2019), algorithms 1 and 2; torch's hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distsqz.errors import InvalidValue, require_at_least
from distsqz.strategies.all_reduce.compressors.compressor import (
    Compressor,
    GradientHook,
    option,
)
from distsqz.strategies.strategy import TensorKind

LEAST_COMPRESSION = 2
"""A matrix is compressed where that saves more than this factor (torch's `min_compression_rate`)."""


@dataclass(frozen=True, kw_only=True)
class PowerSGD(Compressor):
    """Low-rank matrices with error feedback and warm start."""

    description = "two matrices of low rank for each gradient matrix"

    one_bucket = True

    rank: int = option(4, "Rank of the two matrices.", label="rank")
    start_step: int = option(
        2,
        "First step whose gradients are compressed; at least 2, because DDP arranges its buckets anew in the "
        "first step.",
        label="start",
    )

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        require_at_least(self, {"rank": 1, "start_step": 2})

    @property
    def first_step(self) -> int:
        """The step from which gradients are compressed."""
        return self.start_step

    def payload_bytes(self, kinds: Sequence[TensorKind]) -> int:
        """Both matrices of what is compressed, and the rest as it is; from `start_step` on."""
        return sum(self._elements(kind) * kind.element_bytes for kind in kinds)

    def _elements(self, kind: TensorKind) -> int:
        if not kind.shape:
            raise InvalidValue(
                "compressor", "powersgd", "a parameter is a single number, which torch's hook does not take"
            )
        rows, columns = kind.shape[0], kind.elements // max(1, kind.shape[0])
        rank = min(rows, columns, self.rank)
        compressed = (rows + columns) * rank
        return compressed if compressed * LEAST_COMPRESSION < kind.elements else kind.elements

    def hook(self, names: Sequence[str], parameters: Sequence[Any]) -> GradientHook:
        """Torch's hook, whose memory is kept by parameter."""
        from distsqz.strategies.all_reduce.compressors.powersgd_memory import PowerSGDHook

        return PowerSGDHook(self, dict(zip(parameters, names, strict=True)))

    def is_compressed(self, shape: Sequence[int]) -> bool:
        """Whether a gradient of this shape is replaced by two matrices."""
        kind = TensorKind(tuple(shape), 1)
        return self._elements(kind) < kind.elements
