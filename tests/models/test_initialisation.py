"""Weights begin as the networks' authors set them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distsqz.models.alexnet import AlexNet, alexnet, alexnet_bvlc
from distsqz.models.squeezenet import SqueezeNet


def by_paper_name(model: SqueezeNet | AlexNet) -> dict[str, nn.Module]:
    return {
        name: model.get_submodule(path)
        for path, name in model.layer_names.items()
        if isinstance(dict(model.named_modules()).get(path), nn.Conv2d | nn.Linear)
    }


def scale_of(name: str) -> float:
    """Images have deviation 1 here, where the authors' pixels had about 57.6: conv1 makes up for it."""
    return 57.63 if name == "conv1" else 1.0


def is_gaussian(weight: Tensor, std: float) -> bool:
    """Mean and deviation within five standard errors, and tails that a uniform distribution has not."""
    count = weight.numel()
    return (
        abs(weight.mean().item()) < 5 * std / math.sqrt(count)
        and abs(weight.std().item() - std) < 5 * std / math.sqrt(2 * count)
        and weight.abs().max().item() > 2.5 * std
    )


def test_squeezenet_is_uniform_within_the_root_of_three_over_fan_in() -> None:
    torch.manual_seed(0)
    layers = by_paper_name(SqueezeNet(bypass="complex"))
    assert len(layers) == 30
    conv10 = layers.pop("conv10")
    for name, layer in layers.items():
        fan_in = layer.weight[0].numel()
        bound = math.sqrt(3 / fan_in) * scale_of(name)
        assert 0.99 * bound < layer.weight.abs().max().item() <= 1.001 * bound, name
        # A uniform distribution's variance is a third of its bound squared.
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert is_gaussian(conv10.weight, 0.01)
    for name, layer in {**layers, "conv10": conv10}.items():
        assert not layer.bias.any(), name


@pytest.mark.parametrize("factory", [alexnet, alexnet_bvlc])
def test_alexnet_is_gaussian_with_the_biases_of_caffes_reference(factory: type[AlexNet]) -> None:
    torch.manual_seed(0)
    layers = by_paper_name(factory())
    assert list(layers) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    for name, layer in layers.items():
        std = (0.005 if name in ("fc6", "fc7") else 0.01) * scale_of(name)
        assert is_gaussian(layer.weight, std), name
        bias = 0.0 if name in ("conv1", "conv3", "fc8") else 0.1
        assert torch.equal(layer.bias, torch.full_like(layer.bias, bias)), name
