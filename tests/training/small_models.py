"""Models for the trainers' tests, named as a user names an own model: small_models:NAME."""

from __future__ import annotations

import os

import torch
from torch import nn

from distsqz.models.alexnet import alexnet
from distsqz.models.squeezenet import SqueezeNet


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def squeezenet_without_dropout(num_classes: int) -> nn.Module:
    return _without_dropout(SqueezeNet(num_classes))


def alexnet_without_dropout(num_classes: int) -> nn.Module:
    return _without_dropout(alexnet(num_classes))


def _double(model: nn.Module) -> nn.Module:
    """The model in float64: parameters, logits, and the images that it is given."""
    model.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return model.double()


def double_squeezenet(num_classes: int) -> nn.Module:
    return _double(squeezenet_without_dropout(num_classes))


def double_alexnet(num_classes: int) -> nn.Module:
    return _double(alexnet_without_dropout(num_classes))


def small_net(num_classes: int) -> nn.Module:
    """Some hundred parameters, with dropout: quick, and its losses tell whether draws are repeated."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, num_classes),
    )  # fmt: skip


def normed_net(num_classes: int) -> nn.Module:
    """A small net whose running figures follow the last batch, and so differ between ranks."""
    return nn.Sequential(nn.BatchNorm2d(3, momentum=0.9), small_net(num_classes))


class FailsOnRankOne(nn.Module):
    """Raises in the third training step of rank 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = small_net(num_classes)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
            if self.calls == 3 and torch.distributed.get_rank() == 1:
                raise ValueError(f"no more patience in process {os.getpid() > 0}")
        logits: torch.Tensor = self.net(images)
        return logits
