"""Models that people bring, each of a kind that is easily mistrained; named as brought_models:NAME."""

import os
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Flat(nn.Module):
    """Flattens with .view; 32x32 images."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 16 * 16, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


class Hybrid23(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.c3 = nn.Conv3d(1, 2, 3, padding=1)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x)).unsqueeze(1)
        x = self.c3(x).flatten(1, 2).mean((2, 3))
        return self.fc(x)


class Aux(nn.Module):
    """Two heads while training, one in eval mode, as GoogLeNet and Inception v3 do."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        self.aux = nn.Linear(8, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        if self.training:
            return self.fc(x), self.aux(x)
        return self.fc(x)


class Unused(nn.Module):
    """A layer that forward never calls."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.left_over = nn.Linear(8, 8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Clamped(nn.Module):
    """Keeps its weights small by clamping them in place before every step."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        self.fc.weight.data.clamp_(-0.1, 0.1)
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class UnusedLate(nn.Module):
    """Leaves a block out in the third training step and later."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.block = nn.Linear(8, 8)
        self.fc = nn.Linear(8, num_classes)
        self.calls = 0

    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        self.calls += self.training
        if not self.training or self.calls < 3:
            x = x + self.block(x)
        return self.fc(x)


class LayerDrop(nn.Module):
    """Drops whole blocks at random, as LayerDrop and stochastic depth do."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        for block in self.blocks:
            if not self.training or torch.rand(()) > 0.5:
                x = x + block(x)
        return self.fc(x)


class Renorm(nn.Module):
    """EEGNet's layer: max-norm constraint applied in forward by a new .data."""

    class Conv(nn.Conv2d):
        """Its filters have a norm of 0.5 at most."""

        def forward(self, x):
            self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.5)
            return super().forward(x)

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = self.Conv(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class WeightNorm(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        wn = torch.nn.utils.weight_norm
        self.a = wn(nn.Conv2d(3, 64, 3, stride=2))
        self.b = wn(nn.Conv2d(64, 64, 3, stride=2))
        self.c = wn(nn.Conv2d(64, 64, 3, stride=2))
        self.fc = wn(nn.Linear(64, num_classes))

    def forward(self, x):
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.fc(x.mean((2, 3)))


class NumpyInit(nn.Module):
    """Weights drawn by numpy, as in code ported from other frameworks."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        with torch.no_grad():
            self.conv.weight.copy_(torch.from_numpy(np.random.randn(*self.conv.weight.shape) * 0.2))

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class RandomFeatures(nn.Module):
    """A fixed random projection (random Fourier features), drawn by numpy, kept as a buffer."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.register_buffer("projection", torch.from_numpy(np.random.randn(8, 32)).float())
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.fc(torch.cos(F.relu(self.conv(x)).mean((2, 3)) @ self.projection))


class Shared(nn.Module):
    """ALBERT-like: one block used three times, each under reentrant checkpointing."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.block = nn.Linear(16, 16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        for _ in range(3):
            x = checkpoint(lambda y: torch.tanh(self.block(y)), x, use_reentrant=True)
        return self.fc(x)


class SharedPlain(Shared):
    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        for _ in range(3):
            x = torch.tanh(self.block(x))
        return self.fc(x)


class FreshDraws(NumpyInit):
    """Weights drawn from a generator that no seed reaches."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        with torch.no_grad():
            drawn = np.random.default_rng().standard_normal(self.conv.weight.shape)
            self.conv.weight.copy_(torch.from_numpy(drawn) * 0.2)


class FreshBuffer(nn.Module):
    """Batch norm, and a buffer that is drawn anew each time and is not in the state dict."""

    def __init__(self, num_classes=10):
        super().__init__()
        drawn = np.random.default_rng().standard_normal((3, 1, 1))
        self.register_buffer("shift", torch.from_numpy(drawn).float(), persistent=False)
        self.norm = Norm(num_classes)

    def forward(self, x):
        return self.norm(x + self.shift)


class RankDraws(nn.Module):
    """A frozen parameter and a buffer that differ in every process."""

    def __init__(self, num_classes=10):
        super().__init__()
        own = torch.Generator().manual_seed(os.getpid())
        self.offset = nn.Parameter(torch.randn(3, 1, 1, generator=own), requires_grad=False)
        self.register_buffer("shift", torch.randn(3, 1, 1, generator=own), persistent=False)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x + self.offset + self.shift)).mean((2, 3)))


class Drifting(nn.Module):
    """Moves a weight a little further on the second rank than on the first."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        if self.training and torch.distributed.is_initialized():
            self.fc.bias.data.add_(1e-6 * torch.distributed.get_rank())
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class RenormLate(nn.Module):
    """Writes to a weight in the third training step and later."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls >= 3:
            with torch.no_grad():
                self.conv.weight.mul_(0.99)
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class WritesLate(nn.Module):
    """Writes to a parameter in the third training step and later; `write` says how."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls >= 3:
            self.write()
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))

    def write(self):
        raise NotImplementedError


class ClampedLate(WritesLate):
    def write(self):
        self.fc.weight.data.clamp_(-0.1, 0.1)


class ClampedRowLate(WritesLate):
    def write(self):
        self.fc.weight.data[0].clamp_(-0.1, 0.1)


class ClampedInBackwardLate(WritesLate):
    """Clamps a weight once its gradient is known."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        weight = self.fc.weight
        weight.register_post_accumulate_grad_hook(lambda _: self.clamp(weight))

    def clamp(self, weight):
        if self.calls >= 3:
            weight.data.clamp_(-0.1, 0.1)

    def write(self):
        pass


class NewDataLate(WritesLate):
    def write(self):
        self.fc.weight.data = self.fc.weight.data.clamp(-0.1, 0.1)


class NewParameterLate(WritesLate):
    def write(self):
        self.fc.weight = nn.Parameter(self.fc.weight.detach().clamp(-0.1, 0.1))


class RoundedLate(WritesLate):
    """Reads rounded values in forward and puts the true ones back, as quantization-aware training does."""

    def write(self):
        exact = self.fc.weight.data
        self.fc.weight.data = exact.half().float()
        self.fc(torch.zeros(1, 8))
        self.fc.weight.data = exact


class SharedMemory(nn.Module):
    """Two parameters in the same memory."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        self.alias = nn.Parameter(self.fc.weight.data[0])

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3))) + self.alias.sum()


class Complex(nn.Module):
    """A Fourier layer with complex weights."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8, 8, dtype=torch.cfloat) * 0.1)
        self.fc = nn.LazyLinear(num_classes)

    def forward(self, x):
        f = torch.fft.rfft2(x)[..., :8, :8]
        return self.fc(torch.fft.irfft2(f * self.w).flatten(1))


class Half(nn.Module):
    """A bf16 model, as is usual for large ones."""

    dtype = torch.bfloat16

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        self.to(self.dtype)

    def forward(self, x):
        x = x.to(self.conv.weight.dtype)
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class MixedHead(nn.Module):
    """A network in float32 whose head is in float64."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes).double()

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)).double())


class Single(Half):
    dtype = torch.float32


class Double(Half):
    dtype = torch.float64


class Half16(Half):
    dtype = torch.float16


class SparseEmbedding(nn.Module):
    """Pixels as tokens into a sparse embedding."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.table = nn.Embedding(64, 8, sparse=True)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        tokens = ((x[:, 0, ::8, ::8].clamp(-3, 3) + 3) / 6 * 63).long().flatten(1)
        return self.fc(self.table(tokens).mean(1))


class Norm(nn.Module):
    """Batch norm: running figures matter in evaluation."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.bn = nn.BatchNorm2d(8, momentum=0.9)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


class OnlyFloat32(Norm):
    def forward(self, x):
        logits = super().forward(x)
        if logits.dtype != torch.float32:
            raise TypeError("bf16 came out")
        return logits


class LateLayer(nn.Module):
    """Makes its last layer when it sees the first images."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = None
        self.num_classes = num_classes

    def forward(self, x):
        x = F.relu(self.conv(x)).flatten(1)
        if self.fc is None:
            self.fc = nn.Linear(x.shape[1], self.num_classes)
        return self.fc(x)


class Lazy(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


class OnlyCPU(Norm):
    """Cannot be moved to another device."""

    def _apply(self, fn, recurse=True):
        if fn(torch.zeros(1)).device.type != "cpu":
            raise RuntimeError("only for CPUs")
        return super()._apply(fn, recurse)


class NoGradient(Norm):
    def forward(self, x):
        return super().forward(x).detach()


class Maps(Norm):
    def forward(self, x):
        return self.conv(x)


class Uninitialised(Norm):
    """One value is what an uninitialised tensor may hold."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.fc.bias.data[0] = float("nan")


class OnlyTrains(Norm):
    def forward(self, x):
        if not self.training:
            raise NotImplementedError("no evaluation")
        return super().forward(x)


class NormOfOneValue(nn.Module):
    """Batch norm after pooling: one value an image and channel."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.bn = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x).mean((2, 3))))


class PythonInit(Norm):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        nn.init.constant_(self.fc.bias, random.gauss(0, 1))


def compiled(num_classes=10):
    return torch.compile(Norm(num_classes), backend="aot_eager")


class CompiledForward(Norm):
    """Compiles its forward pass itself, where no wrapper shows it."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.compiled = torch.compile(super().forward, backend="aot_eager")

    def forward(self, x):
        return self.compiled(x)
