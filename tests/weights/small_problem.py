"""A model and images so small that training takes a moment: how bright an image is tells its class."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distsqz.data.pixels import ArraySplit
from distsqz.data.split import PixelStatistics
from distsqz.weights.quantised import ModelInfo

CLASSES = 4
INFO = ModelInfo(name="tests.weights.small_problem:small_model", num_classes=CLASSES)


def small_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 16), nn.ReLU(),
        nn.Linear(16, CLASSES),
    )  # fmt: skip


def small_split() -> ArraySplit:
    draw = np.random.default_rng(5)
    labels = draw.integers(0, CLASSES, 64)
    pixels = labels[:, None, None, None] * 60 + draw.integers(0, 30, (64, 1, 8, 8))
    return ArraySplit(pixels.astype(np.uint8), labels, PixelStatistics(mean=(0.4,), std=(0.3,)), image_size=8)
