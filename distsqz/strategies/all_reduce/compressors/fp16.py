"""Gradients as float16: half the bytes of float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distsqz.strategies.all_reduce.compressors.compressor import Compressor, GradientHook
from distsqz.strategies.strategy import TensorKind


@dataclass(frozen=True, kw_only=True)
class Fp16(Compressor):
    """Casts gradients to float16, in which they are also summed."""

    description = "float16 in place of float32"

    def payload_bytes(self, kinds: Sequence[TensorKind]) -> int:
        """Two bytes an element."""
        return sum(2 * kind.elements for kind in kinds)

    def hook(self, names: Sequence[str], parameters: Sequence[Any]) -> GradientHook:  # noqa: ARG002
        """Torch's own hook."""
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        from distsqz.strategies.all_reduce.compressors.stateless import StatelessHook

        return StatelessHook(fp16_compress_hook)
