"""Curvature of the KL divergence: how much an error in each weight changes a network's predictions.

Around the trained weights the KL divergence of the (softened) predictions grows as half the squared error,
weighted by the Fisher information. For a layer with weights [O, d] it is approximated by a Kronecker product
(Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", 2015, section
3): `outputs` is the importance of a filter, and `inputs` says how errors in two of its weights add up or
cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsqz.errors import InvalidValue

POSITIONS = 400
"""Number of output positions per image that are sampled for the local part of `inputs`."""
SHARED = 0.1
"""Weight of the part of `inputs` that adds up over the positions of an image, tuned on a hundred images."""
TEMPERATURE = 2.5
"""Divisor of the logits. A few images show few classes; softened predictions include the other classes, whose
filters would otherwise look unimportant (tuned, see benchmarks/compression)."""


@dataclass(eq=False)
class Curvature:
    """Curvature of one layer, or of one group of a grouped convolution, in nats per image.

    Squared errors are those of the logits; the probabilities that weight them are softened.
    """

    inputs: Tensor
    """[d + 1, d + 1], with trace 1. The last row and column belong to the bias and are 0 without one."""
    outputs: Tensor
    """[O], importance of each filter."""
    bias: Tensor
    """[O], importance of each bias."""


@dataclass(eq=False)
class _Sums:
    local: Tensor
    shared: Tensor
    outputs: Tensor
    bias: Tensor

    def curvature(self, images: int, group: slice) -> Curvature:
        # The gradient of a weight adds up over positions. `shared` measures exactly that, but has only one
        # observation per image; `local` treats positions as independent and has many.
        inputs = SHARED * _of_trace_1(self.shared) + (1 - SHARED) * _of_trace_1(self.local)
        return Curvature(inputs, self.outputs[group] / images, self.bias[group] / images)


def _of_trace_1(matrix: Tensor) -> Tensor:
    trace = matrix.trace()
    # A layer that does not affect predictions has no gradients: all inputs count alike.
    return matrix / trace if trace > 0 else torch.eye(len(matrix)) / len(matrix)


def compressible_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers of a model, by module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }


def measure_curvature(
    model: nn.Module, batches: Iterable[Tensor], seed: int = 0
) -> dict[str, list[Curvature]]:
    """Measures the curvature of every layer from images without labels.

    The Fisher information of the predictions, diag(p) - p p', is sampled with one random sign per class,
    which has less variance than sampling a label. The probabilities p are softened.

    Args:
        model: the model.
        batches: images [n, 3, S, S].
        seed: seed of the samples.

    Returns:
        A list with one `Curvature` per group of the layer, by module path.

    Raises:
        InvalidValue: a layer takes no part in the forward pass.
    """
    layers = compressible_layers(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(_recording_hook(name, inputs, outputs)) for name, layer in layers.items()
    ]
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, list[_Sums]] = {}
    count = 0
    try:
        for images in batches:
            logits = model.eval()(images)
            if missing := [name for name in layers if name not in outputs]:
                raise InvalidValue("model", None, f"its layer {missing[0]} takes no part in the forward pass")
            sample = _fisher_sample(logits.detach() / TEMPERATURE, generator)
            gradients = torch.autograd.grad(logits, [outputs[name] for name in layers], sample)
            for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
                _add(sums.setdefault(name, []), layer, inputs[name], gradient, generator)
            count += len(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: [each.curvature(count, group) for each, group in zip(sums[name], groups_of(layer), strict=True)]
        for name, layer in layers.items()
    }


def _recording_hook(
    name: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def record(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs[name] = arguments[0].detach()
        outputs[name] = output
        return output.clone()  # an activation in place would overwrite `outputs`

    return record


def _fisher_sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gradients of the logits whose mean outer product is diag(p) - p p'."""
    p = logits.softmax(1)
    root = p.sqrt()
    signs = torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
    return root * signs - p * (root * signs).sum(1, keepdim=True)


def groups_of(layer: nn.Conv2d | nn.Linear) -> list[slice]:
    """The filters of each group of a layer."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    size = layer.weight.shape[0] // groups
    return [slice(index * size, (index + 1) * size) for index in range(groups)]


def _add(
    sums: list[_Sums],
    layer: nn.Conv2d | nn.Linear,
    inputs: Tensor,
    gradient: Tensor,
    generator: torch.Generator,
) -> None:
    columns, gradient = _columns(layer, inputs), _by_position(layer, gradient)
    groups = groups_of(layer)
    ones = torch.full((len(columns), 1, columns.shape[2]), float(layer.bias is not None))
    by_group = [torch.cat([own, ones], 1) for own in columns.chunk(len(groups), dim=1)]
    d, filters = by_group[0].shape[1], gradient.shape[1]
    if not sums:
        bias = torch.zeros(filters)
        sums += [_Sums(torch.zeros(d, d), torch.zeros(d, d), torch.zeros(filters), bias) for _ in groups]
    for each, group, own in zip(sums, groups, by_group, strict=True):
        by_image = torch.bmm(gradient[:, group], own.transpose(1, 2))  # the weights' gradients [n, O, d]
        each.shared += (flat := by_image.flatten(0, 1)).T @ flat
        each.outputs[group] += by_image.square().sum((0, 2))
        each.bias[group] += gradient[:, group].sum(2).square().sum(0)
        chosen = torch.randperm(own.shape[2], generator=generator)[:POSITIONS]
        weight = gradient[:, group][..., chosen].square().sum(1, keepdim=True).sqrt()
        local = (own[..., chosen] * weight).permute(1, 0, 2).flatten(1)
        each.local += local @ local.T * (own.shape[2] / len(chosen))


def _columns(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """Inputs of each output position: [n, groups * d, positions]."""
    if isinstance(layer, nn.Linear):
        return _by_position(layer, inputs)
    assert not isinstance(layer.padding, str)
    return F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)


def _by_position(layer: nn.Conv2d | nn.Linear, values: Tensor) -> Tensor:
    """Values as [n, features, positions], from [n, features, H, W] or (linear) [n, ..., features]."""
    if isinstance(layer, nn.Linear):
        return values.flatten(1, -2).transpose(1, 2) if values.ndim > 2 else values[..., None]
    return values.flatten(2)
