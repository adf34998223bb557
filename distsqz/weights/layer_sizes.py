"""What each layer takes of an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distsqz.weights.coder import encode_symbols
from distsqz.weights.quantised import CompressedModel, Quantised


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """What a layer, its biases included, takes of the archive and of the damage."""

    layer: str
    params: int
    nonzero: int
    density_share: float
    step: float
    """Distance between levels of the weights."""
    bits: float
    """Of a parameter, zero or not."""
    bytes: int
    """Encoded by itself; together layers share a few bytes."""
    damage_share: float | None
    """Of the divergence that curvature predicts for all layers; null where that was not measured."""


def layer_sizes(
    model: CompressedModel, names: Mapping[str, str], damage: Mapping[str, float] | None = None
) -> list[LayerSize]:
    """A row a layer; `names` gives the paper's names for module paths, `damage` what each adds in nats."""
    layers: dict[str, list[Quantised]] = {}
    for key, tensor in model.tensors.items():
        layers.setdefault(key.rpartition(".")[0], []).append(tensor)
    total = sum(damage.values()) if damage else 0.0
    shares = []
    for path, own in layers.items():
        params = sum(tensor.symbols.size for tensor in own)
        nonzero = sum(int((tensor.symbols != 0).sum()) for tensor in own)
        size = len(encode_symbols([tensor.symbols for tensor in own])[1])
        shares.append(
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
    return shares
