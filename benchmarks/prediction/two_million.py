"""A convolutional network of two million parameters, between SqueezeNet and AlexNet."""

from __future__ import annotations

from torch import nn


class TwoMillion(nn.Sequential):
    """Four convolutions and two linear layers for images of 64x64; 2,020,456 parameters."""

    def __init__(self, num_classes: int = 1000) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width in (32, 64, 128, 256):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        layers += [nn.Flatten(), nn.Linear(256 * 4 * 4, 320), nn.ReLU(), nn.Linear(320, num_classes)]
        super().__init__(*layers)
