"""SqueezeNet 1.0 and 1.1, from the paper's metaparameters.

Source: Iandola et al. (2016), table 1, and section 5.1 for the metaparameters; 1.1 is the authors' later
release. The layout and its names are torchvision's, so that its published weights load unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distsqz.errors import InvalidValue
from distsqz.models.fire import Bypass, Fire
from distsqz.models.initialisation import initialise_squeezenet

Version = Literal["1.0", "1.1"]


@dataclass(frozen=True, kw_only=True)
class Metaparameters:
    """Metaparameters, which determine the widths of the Fire modules.

    Raises:
        InvalidValue: a ratio leaves a convolution of the first Fire module without filters.
    """

    base_e: int = 128
    """Expand filters of the first Fire module."""
    incr_e: int = 128
    """Number of expand filters that is added after every `freq` Fire modules."""
    freq: int = 2
    pct_3x3: float = 0.5
    """Share of the expand filters that are 3x3."""
    squeeze_ratio: float = 0.125
    """Squeeze filters for each expand filter."""
    fire_modules: int = 8

    def __post_init__(self) -> None:
        least = 1 / self.base_e
        if not least <= self.squeeze_ratio <= 1:
            raise InvalidValue(
                "squeeze_ratio", self.squeeze_ratio, f"must lie between {least:g} and 1 (the paper: 0.125)"
            )
        if not least <= self.pct_3x3 <= 1 - least:
            raise InvalidValue(
                "pct_3x3", self.pct_3x3, f"must lie between {least:g} and {1 - least:g} (the paper: 0.5)"
            )

    def filters(self, index: int) -> tuple[int, int, int]:
        """Squeeze, expand 1x1 and expand 3x3 filters of Fire module `index`, counted from 0.

        Fractions go to the nearest whole filter, which reproduces the paper's model sizes.
        """
        expand = self.base_e + self.incr_e * (index // self.freq)
        expand3x3 = round(expand * self.pct_3x3)
        return round(expand * self.squeeze_ratio), expand - expand3x3, expand3x3


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Layout of a version: what differs between 1.0 and 1.1."""

    conv1_filters: int
    conv1_kernel: int
    pools_after: tuple[int, ...]
    """Layer numbers: 1 is conv1, 2 the first Fire module."""


_LAYOUTS: dict[Version, _Layout] = {
    "1.0": _Layout(conv1_filters=96, conv1_kernel=7, pools_after=(1, 4, 8)),
    "1.1": _Layout(conv1_filters=64, conv1_kernel=3, pools_after=(1, 3, 5)),
}

# torchvision's names of a Fire module's parts, and the paper's.
_FIRE_PARTS = {
    "squeeze": "squeeze1x1",
    "expand1x1": "expand1x1",
    "expand3x3": "expand3x3",
    "bypass": "bypass1x1",
}


class SqueezeNet(nn.Module):
    """Maps images [N, 3, H, W] to logits [N, num_classes]; initialised as in the paper.

    Caffe's release of 1.0 pads the last convolution by 1 (`classifier_padding`), which weights trained there
    need.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        version: Version = "1.0",
        bypass: Bypass = "none",
        metaparameters: Metaparameters | None = None,
        classifier_padding: int = 0,
    ) -> None:
        super().__init__()
        layout = _LAYOUTS[version]
        widths = metaparameters or Metaparameters()
        channels = layout.conv1_filters
        features: list[nn.Module] = [
            nn.Conv2d(3, channels, kernel_size=layout.conv1_kernel, stride=2),
            nn.ReLU(inplace=True),
            _pool(),
        ]
        for index in range(widths.fire_modules):
            squeeze, expand1x1, expand3x3 = widths.filters(index)
            features.append(Fire(channels, squeeze, expand1x1, expand3x3, bypass))
            channels = expand1x1 + expand3x3
            if index + 2 in layout.pools_after:
                features.append(_pool())
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5),
            nn.Conv2d(channels, num_classes, kernel_size=1, padding=classifier_padding),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        initialise_squeezenet(self)

    def forward(self, x: Tensor) -> Tensor:
        """The average over positions of each class's map is its logit."""
        return torch.flatten(self.classifier(self.features(x)), start_dim=1)

    @property
    def layer_names(self) -> dict[str, str]:
        """Module path -> the paper's name: conv1, fire2/squeeze1x1, pool4, conv10."""
        names = {"features.0": "conv1"}
        number = 1
        for index, module in enumerate(self.features):
            if isinstance(module, Fire):
                number += 1
                for part, name in _FIRE_PARTS.items():
                    names[f"features.{index}.{part}"] = f"fire{number}/{name}"
            elif isinstance(module, nn.MaxPool2d):
                names[f"features.{index}"] = f"pool{number}"
        return names | {"classifier.1": f"conv{number + 1}", "classifier.3": f"pool{number + 1}"}


def _pool() -> nn.MaxPool2d:
    # Caffe rounds pooled sizes up: 109 -> 54 -> 27 -> 13. Rounding down would end at 12.
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
