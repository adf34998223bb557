"""Models that tell of their number of classes in different ways, named as class_models:NAME."""

from __future__ import annotations

from typing import Any

from torch import nn


class WithDefault(nn.Sequential):
    """One weight a colour and class, and a bias."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


class WithFive(WithDefault):
    def __init__(self, num_classes: int = 5) -> None:
        super().__init__(num_classes)


def requires_num_classes(num_classes: int) -> nn.Module:
    return WithDefault(num_classes)


def without_num_classes() -> nn.Module:
    return WithDefault()


def any_keywords(**settings: Any) -> nn.Module:
    return WithDefault(**settings)


def default_of_none(num_classes: int | None = None) -> nn.Module:
    return WithDefault(num_classes or 7)


def fourteen() -> nn.Module:
    return WithDefault(14)
