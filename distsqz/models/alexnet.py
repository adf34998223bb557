"""AlexNet in its two common forms: Caffe's BVLC reference, and "one weird trick" as in torchvision.

Sources: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks" (2012), in the
form of Caffe's models/bvlc_alexnet/train_val.prototxt; Krizhevsky, "One weird trick for parallelizing
convolutional neural networks" (2014), in the layout and with the names of torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distsqz.models.initialisation import initialise_alexnet


class AlexNet(nn.Module):
    """Maps images [N, 3, H, W] to logits [N, num_classes]: convolutions, a 6x6 average pool, linear layers.

    At the size that the network was made for the average pool changes nothing; it lets others through.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = classifier
        initialise_alexnet(self)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), start_dim=1))
        return logits

    @property
    def layer_names(self) -> dict[str, str]:
        """Names in the paper by module path: conv1 to conv5, fc6 to fc8, and pool1, pool2, pool5."""
        names = {}
        number = 0
        for path, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                number += 1
                names[path] = f"{'conv' if isinstance(module, nn.Conv2d) else 'fc'}{number}"
            elif isinstance(module, nn.MaxPool2d):
                names[path] = f"pool{number}"
        return names


def alexnet(num_classes: int = 1000) -> AlexNet:
    """AlexNet of "one weird trick", made for 224x224; torchvision's published weights load unchanged."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(p=0.5),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )
    return AlexNet(features, classifier)


def alexnet_bvlc(num_classes: int = 1000) -> AlexNet:
    """Caffe's BVLC reference AlexNet, made for 227x227: grouped convolutions, response normalisation."""
    features = nn.Sequential(
        nn.Conv2d(3, 96, kernel_size=11, stride=4),
        nn.ReLU(inplace=True),
        _response_norm(),
        _caffe_pool(),
        nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        _response_norm(),
        _caffe_pool(),
        nn.Conv2d(256, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        _caffe_pool(),
    )
    classifier = nn.Sequential(
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(4096, num_classes),
    )
    return AlexNet(features, classifier)


def _response_norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _caffe_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
