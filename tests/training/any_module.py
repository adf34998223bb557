"""Modules built out of a grammar, named any_module:module_SEED: the seed determines a module's structure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

CHANNELS, SIDE = 4, 6
"""Every block maps images [N, CHANNELS, SIDE, SIDE] to such images."""

IMAGE_SIZE = 12


def __getattr__(name: str) -> Callable[[int], nn.Module]:
    if not name.startswith("module_"):
        raise AttributeError(name)
    return partial(AnyModule, int(name.removeprefix("module_")))


class AnyModule(nn.Module):
    """A stem, some blocks of the grammar, and a head."""

    def __init__(self, seed: int, num_classes: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.dtype = draw.choices(
            [torch.float32, torch.float64, torch.bfloat16, torch.float16], weights=[5, 5, 1, 1]
        )[0]
        half = self.dtype.itemsize == 2
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList()
        for _ in range(draw.randint(2, 5)):
            self.blocks.append(self._block(draw, half))
        self.head = nn.LazyLinear(num_classes) if draw.random() < 0.2 else nn.Linear(CHANNELS, num_classes)
        if draw.random() < 0.2:
            for parameter in draw.choice([*self.blocks, self.stem]).parameters():
                if not nn.parameter.is_lazy(parameter):
                    parameter.requires_grad_(requires_grad=False)
        self.to(self.dtype)
        self.held: list[nn.Parameter] = []
        if draw.random() < 0.2:
            self.held = [*self.blocks[-1].parameters(), self.stem.weight]  # read before they are looked up
        if draw.random() < 0.2:
            target = draw.choice(list(self.blocks))
            self.stem.register_forward_pre_hook(
                lambda _, inputs: (inputs[0] * (1 + _level(target.parameters())),)
            )

    def _block(self, draw: random.Random, half: bool) -> nn.Module:
        if self.blocks and draw.random() < 0.15:
            return draw.choice([*self.blocks])  # the same parameters once more
        kinds = HALF_BLOCKS if half else [*BLOCKS, *BLOCKS, Clamped]
        block: nn.Module = draw.choice(kinds)()
        if draw.random() < 0.15:
            return Dropped(block)
        return Checkpointed(block) if draw.random() < 0.15 else block

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(self.dtype)
        if self.held:
            x = x * (1 + _level(self.held))
        x = torch.tanh(self.stem(x))
        for block in self.blocks:
            x = torch.tanh(x + block(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def _level(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """A number that depends on all parameters that have been initialised."""
    known = [each for each in parameters if not nn.parameter.is_lazy(each) and each.numel()]
    return 0.01 * torch.stack([each.mean() for each in known]).sum() if known else torch.zeros(())


class Rows(nn.Module):
    """Applies a module of sequences [N, SIDE * SIDE, CHANNELS] to images."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(2).transpose(1, 2)
        if isinstance(self.part, nn.MultiheadAttention):
            rows = self.part(rows, rows, rows, need_weights=False)[0]
        elif isinstance(self.part, nn.RNNBase):
            rows = self.part(rows)[0]
        else:
            rows = self.part(rows)
        return rows.transpose(1, 2).reshape(x.shape)


class Flat1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x.flatten(2)).reshape(x.shape)
        return y


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x.unsqueeze(1)).squeeze(1)
        return y


class Tokens(nn.Module):
    """Adds embeddings of the images' mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = ((x.detach().mean((1, 2, 3)) * 4) + 4).long().clamp(0, 7)
        y: torch.Tensor = self.table(tokens)[:, :, None, None]
        return x + y


class Transposed(nn.Module):
    """A weight that is not contiguous, one of no dimension, and one of no elements."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter((0.3 * torch.randn(CHANNELS + 2, CHANNELS)).t())
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.nothing = nn.Parameter(torch.empty(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("nchw,cd->ndhw", x, self.weight)[:, :CHANNELS]
        return self.scale * y + self.nothing.sum()


class Moving(nn.Module):
    """Subtracts a moving average, which is a buffer, and adds features that numpy has drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(CHANNELS, 1, 1))
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("features", torch.from_numpy(np.random.randn(CHANNELS, 1, 1)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3))[:, None, None])
        return self.gain * (x - self.mean) + 0.1 * self.features


class Detached(nn.Module):
    """Uses one weight twice, the first time without its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(CHANNELS, CHANNELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = torch.einsum("nchw,cd->ndhw", x, self.weight.detach())
        return torch.einsum("nchw,cd->ndhw", torch.tanh(once), self.weight)


class Clamped(nn.Module):
    """Keeps its weight within bounds, by writing to it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.conv.weight.data.clamp_(-0.2, 0.2)
        y: torch.Tensor = self.conv(x)
        return y


class Dropped(nn.Module):
    """Leaves its block out half of the time."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) if not self.training or random.random() < 0.5 else x


class Checkpointed(nn.Module):
    """Computes its block once more in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm | Moving) for part in self.block.modules()):
            return F.relu(self.block(x))  # computed twice, their buffers would move twice
        y: torch.Tensor = checkpoint(self.block, x, use_reentrant=False)
        return y


def _conv() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)


def _linear() -> nn.Module:
    return nn.Linear(CHANNELS, CHANNELS)


def _pruned() -> nn.Module:
    conv = _conv()
    prune.random_unstructured(conv, "weight", amount=0.3)
    return conv


HALF_BLOCKS: list[Callable[[], nn.Module]] = [
    _conv,
    lambda: Rows(_linear()),
    lambda: nn.BatchNorm2d(CHANNELS),
    lambda: nn.Dropout(0.3),
    Tokens,
]
BLOCKS: list[Callable[[], nn.Module]] = [
    *HALF_BLOCKS,
    Flat1d,
    Volume,
    lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1),
    lambda: nn.LazyConv2d(CHANNELS, 1),
    lambda: Rows(nn.MultiheadAttention(CHANNELS, 2, batch_first=True)),
    lambda: Rows(nn.LSTM(CHANNELS, CHANNELS, batch_first=True)),
    lambda: Rows(nn.GRU(CHANNELS, CHANNELS, batch_first=True)),
    lambda: Rows(nn.TransformerEncoderLayer(CHANNELS, 2, 8, batch_first=True)),
    lambda: nn.GroupNorm(2, CHANNELS),
    lambda: Rows(nn.LayerNorm(CHANNELS)),
    lambda: torch.nn.utils.weight_norm(_conv()),
    lambda: torch.nn.utils.spectral_norm(_conv()),
    lambda: Rows(parametrizations.weight_norm(_linear())),
    lambda: Rows(parametrizations.orthogonal(_linear())),
    lambda: Rows(parametrizations.spectral_norm(_linear())),
    _pruned,
    Transposed,
    Moving,
    Detached,
]
