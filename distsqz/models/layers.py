"""Cost of each layer of a model: parameters, multiply-accumulates, activations, gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from distsqz.models.operations import (
    OperationCounter,
    Work,
    bytes_of,
    count_operations,
    storages_of,
    tensors_in,
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Cost of one layer for one image. Unknown figures are None, and `not_understood` gives the reason."""

    name: str
    """Name of the layer in the paper if the model has one (`fire2/squeeze1x1`), otherwise the path of the
    module."""
    kind: str
    params: int
    tensors: int
    """Number of parameter tensors."""
    macs: int | None
    """Multiply-accumulates of the convolutions and matrix products in the forward pass, biases left out."""
    weight_macs: int | None
    """The part of `macs` that multiplies by weights. The rest multiplies activations by each other, as in the
    attention of a transformer."""
    output_shape: tuple[int, ...] | None
    """Shape of the output, without the batch. If the layer returns several tensors, the first one's. None if
    it returns no tensor, if the tensor's first dimension is not the batch, or if the layer is never called as
    a module."""
    activation_bytes: int | None
    """Bytes of the output. In modules that are not from torch.nn, the results of functional convolutions and
    matrix products inside count as well."""
    gradient_bytes: int
    """Bytes of the trainable parameters' gradients, which synchronising this layer has to move."""
    not_understood: tuple[str, ...] = ()
    """Operations whose multiply-accumulates are unknown (`aten::_trilinear`), and types of outputs whose
    size is unknown (`output of type Boxes`)."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over layers; None if the figure of a layer is unknown."""

    params: int
    tensors: int
    macs: int | None
    weight_macs: int | None
    activation_bytes: int | None
    gradient_bytes: int


def layer_table(model: nn.Module, image_size: int) -> list[Layer]:
    """The layers that hold parameters, multiply or change the shape, in the order of computation.

    Runs one image [1, 3, image_size, image_size] forward on the model's own device; on the meta device that
    costs nothing. A layer that is called more than once counts its work each time, its parameters once.
    Operations are counted in the innermost module whose forward is running. A module that is never called,
    but whose parameters another one uses (the output projection of nn.MultiheadAttention), is part of that
    one.
    """
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        with count_operations(image) as counter, _record_calls(model, counter) as calls:
            model.eval()(image)
    finally:
        model.train(was_training)
    return _layers(model, calls)


def totals(layers: Iterable[Layer]) -> Totals:
    """The sums over `layers`."""
    rows = list(layers)
    return Totals(
        params=sum(layer.params for layer in rows),
        tensors=sum(layer.tensors for layer in rows),
        macs=_sum_if_known(layer.macs for layer in rows),
        weight_macs=_sum_if_known(layer.weight_macs for layer in rows),
        activation_bytes=_sum_if_known(layer.activation_bytes for layer in rows),
        gradient_bytes=sum(layer.gradient_bytes for layer in rows),
    )


def totals_by_module(layers: Iterable[Layer]) -> dict[str, Totals]:
    """The sums over the parts of each module: `fire2/squeeze1x1` and its like go to `fire2`."""
    parts: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        parts[layer.name.partition("/")[0]].append(layer)
    return {name: totals(group) for name, group in parts.items()}


def layer_names(model: nn.Module) -> dict[str, str]:
    """Names of layers by module path: the paper's if the model has one, otherwise the path."""
    known: dict[str, str] = getattr(model, "layer_names", {})
    return {path: known.get(path, path or type(module).__name__) for path, module in model.named_modules()}


@dataclass
class _Call:
    """One call of a module: the operations directly in it, and the shapes of its inputs and output."""

    work: Work = field(default_factory=Work)
    output_shape: tuple[int, ...] | None = None
    activation_bytes: int | None = 0
    reshapes: bool = False
    unknown_outputs: set[str] = field(default_factory=set)
    """Types in the output that are neither tensors nor plain values."""
    outputs_of_parts: set[StorageWeakRef] = field(default_factory=set)

    def finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Records shapes and sizes. Tensors are not kept, so that their memory is freed as usual."""
        tensors = tensors_in(output)
        if tensors and tensors[0].shape[:1] == (1,):
            self.output_shape = tuple(tensors[0].shape[1:])
        self.reshapes = _first_shape(inputs) != _first_shape(output)
        self.unknown_outputs = {
            f"output of type {type(leaf).__name__}"
            for leaf in tree_leaves(output)
            if not isinstance(leaf, Tensor | int | float | str | None)
        }
        # A tensor that a submodule returned is counted there.
        own = [tensor for tensor in tensors if not storages_of(tensor) & self.outputs_of_parts]
        self.activation_bytes = self._activation_bytes(module, sum(map(bytes_of, own)))

    def _activation_bytes(self, module: nn.Module, output_bytes: int) -> int | None:
        """Bytes of the output and, unless the module is from torch.nn, of products inside it."""
        if self.unknown_outputs:
            return None
        if type(module).__module__.startswith("torch.nn."):
            return output_bytes
        if self.work.not_understood:
            return None
        results = self.work.result_bytes
        # A last product of the size of the output is the output itself, apart from a bias or ReLU.
        is_output = bool(results) and results[-1] == output_bytes
        return output_bytes + sum(results[:-1] if is_output else results)


def _first_shape(value: Any) -> torch.Size | None:
    tensors = tensors_in(value)
    return tensors[0].shape if tensors else None


@contextmanager
def _record_calls(model: nn.Module, counter: OperationCounter) -> Iterator[dict[nn.Module, list[_Call]]]:
    """The calls of each module inside this context, in the order in which the modules' first calls end."""
    calls: dict[nn.Module, list[_Call]] = defaultdict(list)
    running: list[_Call] = []

    def enter(*_: Any) -> None:
        running.append(_Call())
        counter.work = running[-1].work

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = running.pop()
        call.finish(module, (args, kwargs), output)
        calls[module].append(call)
        if running:
            running[-1].outputs_of_parts |= storages_of(output)
        counter.work = running[-1].work if running else Work()

    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(enter, prepend=True))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: nn.Module, calls: dict[nn.Module, list[_Call]]) -> list[Layer]:
    names = layer_names(model)
    paths = {module: path for path, module in model.named_modules()}
    held = _parameters_by_layer(model, calls)
    counted: set[Tensor] = set()
    layers = []
    for module, parameters in held.items():
        # A parameter that two modules share is counted in the first one.
        own = [parameter for parameter in parameters if parameter not in counted]
        counted.update(own)
        made = calls.get(module, [])
        if parameters or _does_something(module, made):
            layers.append(_layer(names[paths[module]], type(module).__name__, own, made))
    return layers


def _parameters_by_layer(
    model: nn.Module, calls: dict[nn.Module, list[_Call]]
) -> dict[nn.Module, list[nn.Parameter]]:
    """The parameters of each module: first the called ones, in the order of `calls`, then the unused ones."""
    held = {module: list(module.parameters(recurse=False)) for module in (*calls, *model.modules())}
    read = {
        module: {storage for call in made for storage in call.work.storages_read}
        for module, made in calls.items()
    }
    for module in [module for module in held if module not in calls]:
        storages = storages_of(held[module])
        user = next((other for other in calls if storages & read[other]), None)
        if user is not None:
            held[user] += held.pop(module)
    return held


def _does_something(module: nn.Module, made: list[_Call]) -> bool:
    """Whether a module without parameters is a layer: it multiplies, or is a leaf that changes the shape."""
    is_leaf = next(module.children(), None) is None
    return any(
        call.work.macs or call.work.not_understood or call.unknown_outputs or (is_leaf and call.reshapes)
        for call in made
    )


def _layer(name: str, kind: str, own: list[nn.Parameter], made: list[_Call]) -> Layer:
    operations = {operation for call in made for operation in call.work.not_understood}
    outputs = {output for call in made for output in call.unknown_outputs}
    return Layer(
        name=name,
        kind=kind,
        params=sum(parameter.numel() for parameter in own),
        tensors=len(own),
        macs=None if operations else sum(call.work.macs for call in made),
        weight_macs=None if operations else sum(call.work.weight_macs for call in made),
        output_shape=made[-1].output_shape if made else None,
        activation_bytes=_sum_if_known(call.activation_bytes for call in made),
        gradient_bytes=sum(bytes_of(parameter) for parameter in own if parameter.requires_grad),
        not_understood=(*sorted(operations), *sorted(outputs)),
    )


def _sum_if_known(figures: Iterable[int | None]) -> int | None:
    total = 0
    for figure in figures:
        if figure is None:
            return None
        total += figure
    return total
