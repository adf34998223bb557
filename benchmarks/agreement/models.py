"""Models of the kinds that users bring: with hooks, parametrizations, and state besides their parameters.

All take images [N, 3, 32, 32]; a model's docstring names the public report that it resembles, if any. With
`InFloat64` behind its name a model is trained in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune


def __getattr__(name: str) -> Callable[[int], nn.Module]:
    if not name.endswith("InFloat64"):
        raise AttributeError(name)
    factory: type[nn.Module] = globals()[name.removesuffix("InFloat64")]
    return lambda num_classes: InFloat64(factory(num_classes))


class InFloat64(nn.Module):
    """A model in float64."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        logits: Tensor = self.model(images.double())
        return logits


class Network(nn.Module):
    """Two convolutions and a linear layer; `change` is applied to each of them."""

    def __init__(self, num_classes: int, change: Callable[[Any], Any] = lambda layer: layer) -> None:
        super().__init__()
        self.first = change(nn.Conv2d(3, 16, 3, stride=2))
        self.second = change(nn.Conv2d(16, 32, 3, stride=2))
        self.last = change(nn.Linear(32, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        features = F.relu(self.second(F.relu(self.first(images)))).mean((2, 3))
        logits: Tensor = self.last(features)
        return logits


class WeightNorm(nn.Module):
    """Weight normalisation by torch's older, hook-based function (pytorch#61470, #66229)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        normalised = torch.nn.utils.weight_norm
        self.a = normalised(nn.Conv2d(3, 64, 3, stride=2))
        self.b = normalised(nn.Conv2d(64, 64, 3, stride=2))
        self.c = normalised(nn.Conv2d(64, 64, 3, stride=2))
        self.fc = normalised(nn.Linear(64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        features = F.relu(self.c(F.relu(self.b(F.relu(self.a(images))))))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


class SpectralNorm(Network):
    """Spectral normalisation by torch's older, hook-based function: a pre-hook that also moves a buffer."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, torch.nn.utils.spectral_norm)


class ParametrizedWeightNorm(Network):
    """Weight normalisation as a parametrization."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, parametrizations.weight_norm)


class ParametrizedSpectralNorm(Network):
    """Spectral normalisation as a parametrization."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, parametrizations.spectral_norm)


class Orthogonal(Network):
    """Orthogonal weights, as a parametrization."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, parametrizations.orthogonal)


class CachedParametrization(ParametrizedWeightNorm):
    """Reads its parametrized weights twice in each forward pass, from torch's cache the second time."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        with parametrize.cached():
            return super().forward(images) + 0.1 * super().forward(images.flip(3))


def _pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, name="weight", amount=0.5)  # type: ignore[no-untyped-call]
    return layer


class Pruned(Network):
    """Half of every weight is pruned: a pre-hook multiplies it by its mask."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, _pruned)


def _equalised(layer: Any) -> Any:
    """Makes a pre-hook compute the layer's weight from a parameter of unit scale (Karras et al., 2018)."""
    weight = layer.weight
    scale = weight.detach().std().item()
    del layer.weight
    layer.register_parameter("unit_weight", nn.Parameter(weight.detach() / scale))

    def compute(module: nn.Module, _inputs: Any) -> None:
        module.weight = scale * module.unit_weight

    layer.register_forward_pre_hook(compute)
    return layer


class EqualisedRate(Network):
    """A pre-hook scales the weights of each layer."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, _equalised)


def _scale_in_place(module: nn.Module, _inputs: Any) -> None:
    with torch.no_grad():
        module.weight.mul_(0.99)  # type: ignore[operator]


class ScaledInPlace(Network):
    """A pre-hook scales the last weight in place."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.last.register_forward_pre_hook(_scale_in_place)


class NeighboursHook(Network):
    """A pre-hook of the first layer reads the parameters of the last."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.first.register_forward_pre_hook(lambda _, inputs: (inputs[0] * (1 + self.last.weight.mean()),))


class GlobalHook(Network):
    """A pre-hook of all modules of the process reads the last layer's parameters before any other runs."""


def _scale_inputs(module: nn.Module, inputs: Any) -> Any:
    return (inputs[0] * (1 + module.last.weight.mean()),) if type(module) is GlobalHook else None


nn.modules.module.register_module_forward_pre_hook(_scale_inputs)


class ListedParameters(Network):
    """Reads parameters out of a list that was made before training, so that no look-up announces it."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.listed = [*self.parameters()]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        return super().forward(images * (1 + torch.stack([each.mean() for each in self.listed]).sum()))


class Flat(nn.Module):
    """Flattens with .view, which channels_last does not allow (pytorch/benchmark#1367)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 16 * 16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        features = F.relu(self.conv(images))
        logits: Tensor = self.fc(features.view(features.size(0), -1))
        return logits


class Hybrid23(nn.Module):
    """A Conv2d and a Conv3d, whose weights take different memory formats (pytorch#77821)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.c3 = nn.Conv3d(1, 2, 3, padding=1)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        features = self.c3(F.relu(self.conv(images)).unsqueeze(1)).flatten(1, 2)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


class Pooled(nn.Module):
    """A convolution, its mean over the image, and a linear layer: what the models below add to."""

    def __init__(self, num_classes: int, channels: int = 8, features: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=2)
        self.fc = nn.Linear(features or channels, num_classes)

    def pooled(self, images: Tensor) -> Tensor:
        """Features [N, channels]."""
        return F.relu(self.conv(images)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        logits: Tensor = self.fc(self.pooled(images))
        return logits


class Half(Pooled):
    """A bfloat16 model (pytorch#191763)."""

    dtype = torch.bfloat16

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.to(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        return super().forward(images.to(self.fc.weight.dtype))


class Half16(Half):
    """A float16 model."""

    dtype = torch.float16


class NumpyInit(Pooled):
    """Weights drawn by numpy."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        with torch.no_grad():
            self.conv.weight.copy_(torch.from_numpy(np.random.randn(*self.conv.weight.shape) * 0.2))


class RandomFeatures(Pooled):
    """A random projection that numpy draws and that is a buffer (byteps#285, chainermn#195)."""

    projection: Tensor

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, features=32)
        self.register_buffer("projection", torch.from_numpy(np.random.randn(8, 32)).float())

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        logits: Tensor = self.fc(torch.cos(self.pooled(images) @ self.projection))
        return logits


class Norm(Pooled):
    """Batch norm with fast running averages (mmpose#998, pytorch#13711)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.bn = nn.BatchNorm2d(8, momentum=0.9)

    def pooled(self, images: Tensor) -> Tensor:
        """Features [N, channels]."""
        return F.relu(self.bn(self.conv(images))).mean((2, 3))


class SharedPlain(Pooled):
    """One block used three times (pytorch#81296)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes, channels=16)
        self.block = nn.Linear(16, 16)

    def pooled(self, images: Tensor) -> Tensor:
        """Features [N, channels]."""
        features = super().pooled(images)
        for _ in range(3):
            features = torch.tanh(self.block(features))
        return features


class Unused(Pooled):
    """A layer that forward() never calls (pytorch#43259)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.left_over = nn.Linear(8, 8)


class LayerDrop(Pooled):
    """Leaves out blocks at random, others on each rank (accelerate#1191)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def pooled(self, images: Tensor) -> Tensor:
        """Features [N, channels]."""
        features = super().pooled(images)
        for block in self.blocks:
            if not self.training or torch.rand(()) > 0.5:
                features = features + block(features)
        return features
