"""The Fire module: squeeze with 1x1 filters, then expand with 1x1 and 3x3 filters side by side.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size"
(2016), section 3.2; the bypasses are section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Bypass = Literal["none", "simple", "complex"]


class Fire(nn.Module):
    """Maps [N, in_channels, H, W] to [N, expand1x1 + expand3x3, H, W].

    The names of the parts are torchvision's, so that its published weights load unchanged. A simple bypass
    adds the input to the output where the two have as many channels; a complex one also does where they have
    not, through a 1x1 convolution.
    """

    def __init__(
        self, in_channels: int, squeeze: int, expand1x1: int, expand3x3: int, bypass: Bypass = "none"
    ) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)
        self.bypass = _shortcut(bypass, in_channels, expand1x1 + expand3x3)

    def forward(self, x: Tensor) -> Tensor:
        """The sum with the bypass comes after the activations, as in the paper."""
        squeezed = self.squeeze_activation(self.squeeze(x))
        left = self.expand1x1_activation(self.expand1x1(squeezed))
        right = self.expand3x3_activation(self.expand3x3(squeezed))
        expanded = torch.cat([left, right], dim=1)
        return expanded if self.bypass is None else expanded + self.bypass(x)


def _shortcut(bypass: Bypass, in_channels: int, out_channels: int) -> nn.Module | None:
    if bypass == "none":
        return None
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, kernel_size=1) if bypass == "complex" else None


@dataclass(frozen=True, kw_only=True)
class FireArithmetic:
    """Numbers of weights of a Fire module and of the 3x3 convolution that it replaces, without biases."""

    in_channels: int
    out_channels: int
    squeeze: int
    standard_weights: int
    fire_weights: int
    reduction: float
    """Share of the convolution's weights that is saved, between 0 and 1."""
    ratio: float
    """Weights of the convolution divided by those of the Fire module."""


def fire_arithmetic(in_channels: int = 256, out_channels: int = 512, squeeze: int = 64) -> FireArithmetic:
    """Counts the weights of a Fire module with half of its expand filters 3x3, and of the convolution."""
    half = out_channels // 2
    standard_weights = in_channels * out_channels * 3 * 3
    fire_weights = in_channels * squeeze + squeeze * (out_channels - half) + squeeze * half * 3 * 3
    return FireArithmetic(
        in_channels=in_channels,
        out_channels=out_channels,
        squeeze=squeeze,
        standard_weights=standard_weights,
        fire_weights=fire_weights,
        reduction=1 - fire_weights / standard_weights,
        ratio=standard_weights / fire_weights,
    )
