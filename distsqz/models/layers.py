"""What each layer of a model costs: parameters, multiply-accumulates, activations, gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer, for one image."""

    name: str
    """The paper's name where the model knows it (`fire2/squeeze1x1`), else the module's path."""
    kind: str
    params: int
    tensors: int
    """Parameter tensors."""
    macs: int
    """Multiply-accumulates of the forward pass, in convolutions and linear layers, biases left out."""
    output_shape: tuple[int, ...]
    """Without the batch; empty where the layer is not called as a module or returns no tensor."""
    activation_bytes: int
    """Of the output."""
    gradient_bytes: int
    """Of the trainable parameters' gradients: what synchronising this layer has to move."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over layers."""

    params: int
    tensors: int
    macs: int
    activation_bytes: int
    gradient_bytes: int


def layer_table(model: nn.Module, image_size: int) -> list[Layer]:
    """The layers that hold parameters or change the shape, in the order of computation.

    Runs one image [1, 3, image_size, image_size] forward on the model's own device; on the meta device that
    costs nothing. A layer that is called more than once counts its work each time, its parameters once.
    """
    calls: dict[nn.Module, list[_Call]] = defaultdict(list)
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: calls[module].append(_Call(module, inputs, output))
        )
        for module in model.modules()
    ]
    was_training = model.training
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            model.eval()(image)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return _layers(model, calls)


def totals(layers: Iterable[Layer]) -> Totals:
    """The sums over `layers`."""
    rows = list(layers)
    return Totals(
        params=sum(layer.params for layer in rows),
        tensors=sum(layer.tensors for layer in rows),
        macs=sum(layer.macs for layer in rows),
        activation_bytes=sum(layer.activation_bytes for layer in rows),
        gradient_bytes=sum(layer.gradient_bytes for layer in rows),
    )


def totals_by_module(layers: Iterable[Layer]) -> dict[str, Totals]:
    """The sums over the parts of each module: `fire2/squeeze1x1` and its like go to `fire2`."""
    parts: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        parts[layer.name.partition("/")[0]].append(layer)
    return {name: totals(group) for name, group in parts.items()}


def layer_names(model: nn.Module) -> dict[str, str]:
    """Module path -> the paper's name where the model knows it, else the path."""
    known: dict[str, str] = getattr(model, "layer_names", {})
    return {path: known.get(path, path or type(module).__name__) for path, module in model.named_modules()}


class _Call:
    """What one call of a module tells: shapes, not values."""

    def __init__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        is_tensor = isinstance(output, Tensor)
        self.output_shape: tuple[int, ...] = tuple(output.shape[1:]) if is_tensor else ()
        self.output_bytes: int = output.numel() * output.element_size() if is_tensor else 0
        self.reshapes = bool(inputs) and is_tensor and inputs[0].shape != output.shape
        self.macs = 0
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            # An output value costs one multiply-accumulate for each weight of its filter, and grouping has
            # already made the filter shorter.
            self.macs = output.numel() * module.weight[0].numel()


def _layers(model: nn.Module, calls: dict[nn.Module, list[_Call]]) -> list[Layer]:
    names = layer_names(model)
    paths = {module: path for path, module in model.named_modules()}
    never_called = [module for module in paths if module not in calls]
    counted: set[Tensor] = set()
    layers = []
    for module in (*calls, *never_called):
        # A parameter that two modules share is counted where it is met first.
        held = list(module.parameters(recurse=False))
        own = [parameter for parameter in held if parameter not in counted]
        counted.update(own)
        made = calls.get(module, [])
        is_leaf = next(module.children(), None) is None
        if held or (is_leaf and any(call.reshapes for call in made)):
            layers.append(
                Layer(
                    name=names[paths[module]],
                    kind=type(module).__name__,
                    params=sum(parameter.numel() for parameter in own),
                    tensors=len(own),
                    macs=sum(call.macs for call in made),
                    output_shape=made[-1].output_shape if made else (),
                    activation_bytes=sum(call.output_bytes for call in made),
                    gradient_bytes=sum(
                        parameter.numel() * parameter.element_size()
                        for parameter in own
                        if parameter.requires_grad
                    ),
                )
            )
    return layers
