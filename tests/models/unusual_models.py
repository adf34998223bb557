"""Small models whose costs a table of nn.Conv2d and nn.Linear would miss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Functional(nn.Module):
    """A convolution and a linear layer written with functions, their weights held by the model itself."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.zeros(8, 3, 3, 3))
        self.weight = nn.Parameter(torch.zeros(num_classes, 8))

    def forward(self, x: Tensor) -> Tensor:
        maps = F.conv2d(x, self.filters, stride=2, padding=1).relu()
        return F.linear(maps.mean((2, 3)), self.weight)


class Attention(nn.Module):
    """Patches of 16x16 pixels, one layer of attention with four heads, a classifier."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 16, stride=16)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        logits: Tensor = self.fc(attended.mean(1))
        return logits


class Normalised(nn.Module):
    """A convolution with batch norm, whose statistics are buffers."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))
        return logits


class WithTable(nn.Module):
    """Adds a table to the maps of a convolution: a buffer, or a plain attribute."""

    def __init__(self, num_classes: int = 10, *, is_buffer: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)
        self.table: Tensor
        if is_buffer:
            self.register_buffer("table", torch.zeros(8, 64, 64))
        else:
            self.table = torch.zeros(8, 64, 64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc((self.conv(x) + self.table).relu().mean((2, 3)))
        return logits


class Bilinear(nn.Module):
    """A layer whose multiply-accumulates have no agreed formula."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.pair = nn.Bilinear(3, 3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        colour = x.mean((2, 3))
        logits: Tensor = self.pair(colour, colour)
        return logits


class OnTokens(nn.Module):
    """Applies a layer of choice to the pixels of an image, a sequence [1, pixels, 3]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 3, 1)
        self.layer = layer

    def forward(self, x: Tensor) -> object:
        return self.layer(self.embed(x).flatten(2).transpose(1, 2))
