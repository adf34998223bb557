"""Layer tables count every parameter once and every call's work, whatever the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distsqz.models.layers import layer_table, totals, totals_by_module


class Odd(nn.Module):
    """A parameter of its own, a layer called twice, a weight shared, and a layer never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.conv = nn.Conv2d(3, 3, kernel_size=3, padding=1, groups=3)
        self.flatten = nn.Flatten()
        self.encode = nn.Linear(48, 5, bias=False)
        self.twin = nn.Linear(48, 5, bias=False)
        self.twin.weight = self.encode.weight
        self.unused = nn.Linear(2, 2)
        self.unused.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.flatten(self.conv(self.conv(x)))
        return self.scale * (self.encode(flat) + self.twin(flat))


def test_table_adds_up_to_the_model_whatever_its_wiring() -> None:
    model = Odd()
    layers = layer_table(model, image_size=4)
    sums = totals(layers)
    assert sums.params == sum(parameter.numel() for parameter in model.parameters())
    assert sums.tensors == len(list(model.parameters()))
    assert sums.gradient_bytes == 4 * (sums.params - model.unused.weight.numel())


def test_table_counts_each_call_and_each_parameter_once() -> None:
    layers = {layer.name: layer for layer in layer_table(Odd(), image_size=4)}
    assert layers["conv"].macs == 2 * (3 * 4 * 4) * 9
    assert layers["conv"].params == 3 * 9 + 3
    assert layers["flatten"].output_shape == (48,)
    assert (layers["encode"].params, layers["encode"].macs) == (240, 240)
    assert (layers["twin"].params, layers["twin"].macs) == (0, 240)
    assert (layers["Odd"].params, layers["Odd"].output_shape) == (5, (5,))
    assert (layers["unused"].params, layers["unused"].macs, layers["unused"].output_shape) == (6, 0, ())


def test_activations_are_the_bytes_of_each_output() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    layers = layer_table(model, image_size=8)
    assert [layer.name for layer in layers] == ["0", "2", "3", "4"]
    assert [layer.activation_bytes for layer in layers] == [8 * 36 * 4, 8 * 9 * 4, 72 * 4, 10 * 4]


def test_table_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layer_table(model, image_size=8)
    assert model.training
    assert not model[0]._forward_hooks
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_parts_add_up_to_their_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    model.layer_names = {"0": "fire2/squeeze1x1", "1": "fire2/expand3x3"}  # type: ignore[assignment]
    layers = layer_table(model, image_size=8)
    assert totals_by_module(layers) == {"fire2": totals(layers)}
