"""Deep Compression with training: prune, fine-tune, share values, fine-tune those (Han, Mao, Dally, 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distsqz.data import Split
from distsqz.errors import InvalidValue, require_at_least
from distsqz.models.recipes import Recipe
from distsqz.models.registry import recipe_for
from distsqz.weights.fine_tune import FineTuning, fine_tune
from distsqz.weights.prune import Masked, dropout_for, gradual_density, groups, magnitude_masks, prunable
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised
from distsqz.weights.shared_values import Shared, from_codebook, uniform

BIAS_BITS = 8
GENTLE = 0.8
"""Learning rate of fine-tuning, as a share of the recipe's."""


@dataclass(frozen=True, kw_only=True)
class DeepCompressOptions:
    """Amount of compression, and of the training during it."""

    density: float = 0.2
    """Share of the weights that are kept, over all layers. Those of largest magnitude are kept."""
    layer_density: dict[str, float] = field(default_factory=dict)
    """Densities of single layers or groups of layers, by the beginning of their names (for example:
    features.0 1 classifier 0.05)."""
    bits: int = 5
    """Bits per weight before entropy coding: a layer has 2^bits shared values, zero included."""
    layer_bits: dict[str, int] = field(default_factory=dict)
    """Bits of single layers or groups of layers, by the beginning of their names (for example: features 6
    classifier 4)."""
    rounds: int = 3
    """Number of rounds of pruning and fine-tuning. Each round prunes more weights."""
    fine_tune_steps: int = 900
    """Steps of fine-tuning the weights that are kept, over all rounds."""
    share_steps: int = 300
    """Steps of fine-tuning the shared values."""
    batch_size: int = 64
    """Images in each training step."""
    lr: float | None = None
    """Learning rate at the start of each round; it falls to 0 over the round. By default four fifths of the
    learning rate of the model's recipe, scaled to the batch size."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of computation. bf16 computes under autocast; weights and gradients stay fp32."""
    seed: int = 0
    """Seed of the order of images, of mirroring and of dropout."""

    def __post_init__(self) -> None:
        """Raises InvalidValue for a value out of range."""
        for prefix, density in self.densities.items():
            if not 0 < density <= 1:
                field, value = ("layer_density", f"{prefix} {density}") if prefix else ("density", density)
                raise InvalidValue(field, value, "must be above 0 and at most 1")
        for prefix, bits in self.all_bits.items():
            if not 1 <= bits <= 12:
                field, value = ("layer_bits", f"{prefix} {bits}") if prefix else ("bits", bits)
                raise InvalidValue(field, value, "must be from 1 to 12")
        require_at_least(
            self, {"rounds": 1, "fine_tune_steps": 0, "share_steps": 0, "batch_size": 1, "seed": 0}
        )
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise InvalidValue("lr", self.lr, "must be above 0 and finite")

    @property
    def densities(self) -> dict[str, float]:
        """Densities by prefix of the weights' names; "" is for weights that match no other prefix."""
        return {"": self.density, **self.layer_density}

    @property
    def all_bits(self) -> dict[str, int]:
        """Bits by prefix of the weights' names; "" is for weights that match no other prefix."""
        return {"": self.bits, **self.layer_bits}

    def lr_for(self, recipe: Recipe) -> float:
        """The requested learning rate, by default a share of that of the recipe."""
        return self.lr or GENTLE * recipe.lr * self.batch_size / recipe.batch


def deep_compress(
    model: nn.Module, data: Split, info: ModelInfo, options: DeepCompressOptions
) -> CompressedModel:
    """Compresses `model` in place. Afterwards it has exactly the weights of the result.

    Args:
        model: the trained model.
        data: images to train on.
        info: description of the model, which the result includes.
        options: amount of compression and of training.

    Raises:
        InvalidValue: an option names no layer, or the split is smaller than a batch.
        RunError: the loss is not finite.
    """
    names = list(prunable(model))
    _check_prefixes("layer_density", options.layer_density, names)
    _check_prefixes("layer_bits", options.layer_bits, names)
    _prune(model, data, info, options)
    shared = Shared(model, _by_layer(names, options.all_bits))
    settings = _settings(info, options, options.share_steps, round_=0)
    with dropout_for(model, {name: weight != 0 for name, weight in prunable(model).items()}):
        fine_tune(model, data, settings, shared, "shared values")
    compressed = CompressedModel(info, quantise_shared(model))
    model.load_state_dict({name: torch.from_numpy(values) for name, values in compressed.state().items()})
    model.eval()
    return compressed


def quantise_shared(model: nn.Module) -> dict[str, Quantised]:
    """Quantises the state dict: shared weights and buffers exactly, biases to 8 bits."""
    shared = prunable(model)
    biases = {name.removesuffix("weight") + "bias" for name in shared}
    arrays = {name: _array(tensor) for name, tensor in model.state_dict().items()}
    return {
        name: uniform(values, BIAS_BITS) if name in biases else from_codebook(values)
        for name, values in arrays.items()
    }


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32).reshape(tensor.shape)


def _prune(model: nn.Module, data: Split, info: ModelInfo, options: DeepCompressOptions) -> None:
    for round_ in range(1, options.rounds + 1):
        densities = {
            prefix: gradual_density(density, round_, options.rounds)
            for prefix, density in options.densities.items()
        }
        done, until = (options.fine_tune_steps * at // options.rounds for at in (round_ - 1, round_))
        settings = _settings(info, options, until - done, round_=round_)
        masks = magnitude_masks(model, densities)
        with dropout_for(model, masks):
            fine_tune(model, data, settings, Masked(model, masks), f"pruned, round {round_}")


def _settings(info: ModelInfo, options: DeepCompressOptions, steps: int, *, round_: int) -> FineTuning:
    """Settings of a round of pruning, counted from 1; round 0 trains shared values, without weight decay."""
    recipe = recipe_for(info.name)
    return FineTuning(
        steps=steps,
        lr=options.lr_for(recipe),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay if round_ else 0.0,
        batch_size=options.batch_size,
        seed=options.seed * (options.rounds + 1) + round_,  # other images and other dropout in every round
        bf16=options.precision == "bf16",
    )


def _check_prefixes(field: str, given: Mapping[str, object], names: list[str]) -> None:
    for prefix in given:
        if not groups(names, {prefix: None})[prefix]:
            known = ", ".join(name.removesuffix(".weight") for name in names)
            raise InvalidValue(field, prefix, f"is no layer or group of layers; there are {known}")


def _by_layer(names: list[str], values: Mapping[str, int]) -> dict[str, int]:
    by_prefix = groups(names, values)
    return {name: values[prefix] for prefix, members in by_prefix.items() for name in members}
