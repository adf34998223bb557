"""Layer tables count every parameter once and every call's work, whatever the model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distsqz.models.layers import Layer, layer_table, totals, totals_by_module
from tests.models.unusual_models import Attention, Bilinear, Functional, OnTokens


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
    assert (layers["unused"].params, layers["unused"].macs, layers["unused"].output_shape) == (6, 0, None)


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


def chosen_layer(model: nn.Module, image_size: int) -> Layer:
    """The layer that `OnTokens` was given."""
    return next(layer for layer in layer_table(model, image_size) if layer.name == "layer")


def test_functional_layers_are_a_row_of_the_module_that_computes_them() -> None:
    (row,) = layer_table(Functional(), image_size=64)
    convolution, linear = 8 * 32 * 32 * 3 * 3 * 3, 10 * 8
    assert (row.name, row.params, row.macs) == ("Functional", 8 * 27 + 80, convolution + linear)
    assert row.activation_bytes == (8 * 32 * 32 + 10) * 4


def test_attention_counts_its_projections_and_the_products_of_activations_apart() -> None:
    patch, attention, fc = layer_table(Attention(), image_size=64)
    tokens, width = 16, 64
    projections = 4 * tokens * width * width  # queries, keys, values, output
    assert (attention.params, attention.weight_macs) == (4 * width * (width + 1), projections)
    assert attention.macs == projections + 2 * tokens * tokens * width
    assert (attention.output_shape, attention.activation_bytes) == ((16, 64), 16 * 64 * 4)
    assert totals([patch, attention, fc]).weight_macs == 1_049_216


def test_products_of_activations_are_a_row_of_their_module_without_weights() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(3, 9)
            self.out = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            out: Tensor = self.out(F.scaled_dot_product_attention(q, k, v))
            return out

    row = chosen_layer(OnTokens(ByHand()), image_size=4)
    assert (row.params, row.macs, row.weight_macs) == (0, 2 * 16 * 16 * 3, 0)
    assert row.activation_bytes == (16 * 16 + 16 * 3) * 4  # scores, and values weighted by them


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_recurrent_layer_returns_a_tuple_of_which_all_tensors_count(device: str) -> None:
    lstm = chosen_layer(OnTokens(nn.LSTM(3, 5, batch_first=True)).to(device), image_size=4)
    assert (lstm.macs, lstm.output_shape) == (16 * 4 * 5 * (3 + 5), (16, 5))
    assert lstm.activation_bytes == (16 * 5 + 5 + 5) * 4


def test_an_output_whose_first_dimension_is_not_the_batch_has_no_shape_without_it() -> None:
    class TokensFirst(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(0, 1)

    layer = chosen_layer(OnTokens(TokensFirst()), image_size=4)
    assert (layer.output_shape, layer.activation_bytes) == (None, 16 * 3 * 4)


def test_a_layer_without_a_formula_is_unknown_and_so_is_the_total() -> None:
    layers = layer_table(Bilinear(), image_size=4)
    assert [(layer.macs, layer.not_understood) for layer in layers] == [(None, ("aten::_trilinear",))]
    assert layers[0].activation_bytes == 10 * 4
    assert (totals(layers).macs, totals(layers).weight_macs, totals(layers).params) == (None, None, 100)


def test_an_output_that_is_no_tensor_is_unknown() -> None:
    @dataclass
    class Boxes:
        corners: Tensor

    class Detect(nn.Module):
        def forward(self, x: Tensor) -> Boxes:
            return Boxes(x.amax(1))

    model = OnTokens(Detect())
    detect = chosen_layer(model, image_size=4)
    assert (detect.output_shape, detect.activation_bytes) == (None, None)
    assert detect.not_understood == ("output of type Boxes",)
    assert totals(layer_table(model, image_size=4)).activation_bytes is None


def test_a_layer_that_takes_a_list_or_keywords_is_a_layer() -> None:
    class Join(nn.Module):
        def forward(self, parts: list[Tensor]) -> dict[str, Tensor]:
            return {"joined": torch.cat(parts, dim=1)}

    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.join = Join()

        def forward(self, x: Tensor) -> Tensor:
            joined: Tensor = self.join(parts=[self.conv(x), x])["joined"]
            return joined

    join = {layer.name: layer for layer in layer_table(Joins(), image_size=4)}["join"]
    assert (join.output_shape, join.activation_bytes) == ((7, 4, 4), 7 * 16 * 4)


def test_weights_of_a_module_that_is_never_called_belong_to_the_one_that_uses_them() -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projections = nn.ParameterList([nn.Parameter(torch.zeros(3, 5))])

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.projections[0]

    layers = layer_table(OnTokens(Uses()), image_size=4)
    assert [(layer.name, layer.params, layer.macs) for layer in layers] == [
        ("embed", 12, 16 * 9),
        ("layer", 15, 16 * 15),
    ]
