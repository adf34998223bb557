"""The Fire module computes what the paper draws, and its arithmetic is the paper's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distsqz.models.fire import Fire, fire_arithmetic


def plain_fire(fire: Fire, x: Tensor) -> Tensor:
    squeezed = F.relu(F.conv2d(x, fire.squeeze.weight, fire.squeeze.bias))
    narrow = F.relu(F.conv2d(squeezed, fire.expand1x1.weight, fire.expand1x1.bias))
    wide = F.relu(F.conv2d(squeezed, fire.expand3x3.weight, fire.expand3x3.bias, padding=1))
    return torch.cat([narrow, wide], dim=1)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 8, 5, 5)


def test_fire_squeezes_then_expands_both_ways(x: Tensor) -> None:
    fire = Fire(8, squeeze=3, expand1x1=4, expand3x3=6)
    torch.testing.assert_close(fire(x), plain_fire(fire, x))


@pytest.mark.parametrize("bypass", ["simple", "complex"])
def test_bypass_adds_the_input_after_the_activations_where_channels_agree(x: Tensor, bypass: str) -> None:
    fire = Fire(8, squeeze=3, expand1x1=4, expand3x3=4, bypass=bypass)
    torch.testing.assert_close(fire(x), x + plain_fire(fire, x))
    assert len(list(fire.parameters())) == 6


def test_simple_bypass_is_left_out_where_channels_differ(x: Tensor) -> None:
    fire = Fire(8, squeeze=3, expand1x1=4, expand3x3=6, bypass="simple")
    torch.testing.assert_close(fire(x), plain_fire(fire, x))


def test_complex_bypass_convolves_the_input_where_channels_differ(x: Tensor) -> None:
    fire = Fire(8, squeeze=3, expand1x1=4, expand3x3=6, bypass="complex")
    assert isinstance(fire.bypass, nn.Conv2d)
    shortcut = F.conv2d(x, fire.bypass.weight, fire.bypass.bias)
    torch.testing.assert_close(fire(x), plain_fire(fire, x) + shortcut)


def test_fire_needs_six_and_a_half_times_fewer_weights_than_the_3x3_it_stands_for() -> None:
    fire = fire_arithmetic()
    assert fire.standard_weights == nn.Conv2d(256, 512, 3, bias=False).weight.numel() == 1_179_648
    module = Fire(256, squeeze=64, expand1x1=256, expand3x3=256)
    weights = sum(parameter.numel() for name, parameter in module.named_parameters() if "weight" in name)
    assert fire.fire_weights == weights == 180_224
    assert round(100 * fire.reduction, 2) == 84.72
    assert round(fire.ratio, 2) == 6.55


def test_fire_with_half_the_squeeze_filters_needs_half_the_weights() -> None:
    assert fire_arithmetic(squeeze=32).fire_weights == 90_112
