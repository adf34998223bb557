"""A small residual network: a model of your own that distsqz trains beside its built-in ones.

distsqz compare --models squeezenet examples.own_model:ResidualNet --image-size 32
"""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to the input: [N, channels, S, S] -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Returns relu(features + layers(features))."""
        residual: Tensor = self.layers(features)
        return nn.functional.relu(features + residual)


class ResidualNet(nn.Sequential):
    """Images [N, 3, S, S] of any size -> logits [N, num_classes].

    distsqz passes `num_classes` where a data set has another number of classes than 10.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            ResidualBlock(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            ResidualBlock(64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )
