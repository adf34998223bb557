"""Size of each layer in an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distsqz.weights.coder import encode_symbols
from distsqz.weights.quantised import CompressedModel, Quantised


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """Size of one layer in an archive, including its biases, and its part of the divergence."""

    layer: str
    """Name of the layer in the paper if the model has one, otherwise the path of its module."""
    params: int
    nonzero: int
    """Number of parameters that are not zero."""
    density_share: float
    """Share of parameters that are not zero."""
    step: float
    """Distance between neighbouring values of the weights."""
    bits: float
    """Mean number of bits per parameter, zeros included."""
    bytes: int
    """Bytes of the layer when it is encoded alone. Layers encoded together share some bytes."""
    damage_share: float | None
    """Share of the divergence that curvature predicts for all layers; None if it was not measured."""


def layer_sizes(
    model: CompressedModel, names: Mapping[str, str], damage: Mapping[str, float] | None = None
) -> list[LayerSize]:
    """Sizes of all layers.

    Args:
        model: the compressed model.
        names: names in the paper, by module path.
        damage: divergence that each layer adds, in nats, by module path.
    """
    layers: dict[str, list[Quantised]] = {}
    for key, tensor in model.tensors.items():
        layers.setdefault(key.rpartition(".")[0], []).append(tensor)
    total = sum(damage.values()) if damage else 0.0
    sizes = []
    for path, own in layers.items():
        params = sum(tensor.symbols.size for tensor in own)
        nonzero = sum(int((tensor.symbols != 0).sum()) for tensor in own)
        size = len(encode_symbols([tensor.symbols for tensor in own])[1])
        sizes.append(
            LayerSize(
                layer=names.get(path, path),
                params=params,
                nonzero=nonzero,
                density_share=nonzero / params,
                step=own[0].step,
                bits=8 * size / params,
                bytes=size,
                damage_share=damage[path] / total if damage and total else None,
            )
        )
    return sizes
