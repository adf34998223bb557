"""Initial weights of the networks, as their authors set them.

Sources: SqueezeNet_v1.0/train_val.prototxt of the SqueezeNet release, and Caffe's
models/bvlc_alexnet/train_val.prototxt.
"""

from __future__ import annotations

import torch
from torch import nn

PIXEL_DEVIATION = 255 * (0.229 + 0.224 + 0.225) / 3
"""Mean standard deviation of ImageNet's pixels, on a scale of 0 to 255.

The authors subtracted the mean from the pixels; here pixels are also divided by their deviation. The weights
of the first layer are multiplied by the deviation, so that later layers have inputs as large as the authors'
had. Otherwise the signals of SqueezeNet vanish over its ten modules, and it does not learn.
"""


def initialise_squeezenet(model: nn.Module) -> None:
    """Caffe's `xavier` (uniform, bound sqrt(3 / fan_in)); Gaussian 0.01 for the last layer; biases 0."""
    *earlier, last = _weighted(model)
    for layer in earlier:
        # For a linear gain Kaiming's bound is Caffe's: fan-in alone counts.
        nn.init.kaiming_uniform_(layer.weight, mode="fan_in", nonlinearity="linear")
    nn.init.normal_(last.weight, std=0.01)
    _expect_normalised_images(earlier[0])
    for layer in (*earlier, last):
        _fill_bias(layer, 0.0)


def initialise_alexnet(model: nn.Module) -> None:
    """Gaussian 0.01, for fc6 and fc7 0.005; biases 0.1 for conv2, conv4, conv5, fc6 and fc7, otherwise 0."""
    conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8 = _weighted(model)
    for layer in (conv1, conv2, conv3, conv4, conv5, fc8):
        nn.init.normal_(layer.weight, std=0.01)
    _expect_normalised_images(conv1)
    for layer in (fc6, fc7):
        nn.init.normal_(layer.weight, std=0.005)
    for layer in (conv1, conv3, fc8):
        _fill_bias(layer, 0.0)
    for layer in (conv2, conv4, conv5, fc6, fc7):
        _fill_bias(layer, 0.1)


def _weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _expect_normalised_images(first: nn.Conv2d | nn.Linear) -> None:
    with torch.no_grad():
        first.weight.mul_(PIXEL_DEVIATION)


def _fill_bias(layer: nn.Conv2d | nn.Linear, value: float) -> None:
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)
