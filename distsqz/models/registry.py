"""Models by name: SqueezeNet and AlexNet here, and anyone's own as package.module:factory."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distsqz.errors import RequestError
from distsqz.models.alexnet import alexnet, alexnet_bvlc
from distsqz.models.recipes import ALEXNET, OWN_MODEL, SQUEEZENET, Recipe
from distsqz.models.squeezenet import Metaparameters, SqueezeNet

_SQUEEZENETS: dict[str, Callable[..., nn.Module]] = {
    "squeezenet": SqueezeNet,
    "squeezenet1_1": partial(SqueezeNet, version="1.1"),
    "squeezenet_simple_bypass": partial(SqueezeNet, bypass="simple"),
    "squeezenet_complex_bypass": partial(SqueezeNet, bypass="complex"),
}
_ALEXNETS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "alexnet_bvlc": alexnet_bvlc,
}

MODELS = (*_SQUEEZENETS, *_ALEXNETS)
"""Every name in the registry."""

_SMALLEST_IMAGE = dict.fromkeys(_SQUEEZENETS, 21) | {
    "squeezenet1_1": 17,
    "alexnet": 63,
    "alexnet_bvlc": 39,
}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how wide."""

    model: str = "squeezenet"
    """squeezenet, squeezenet1_1, squeezenet_simple_bypass, squeezenet_complex_bypass, alexnet, alexnet_bvlc,
    or package.module:factory for a model of your own."""
    squeeze_ratio: float | None = None
    """SqueezeNet only: squeeze filters for each expand filter; the paper's 0.125 by default."""
    pct_3x3: float | None = None
    """SqueezeNet only: share of the expand filters that are 3x3; the paper's 0.5 by default."""
    num_classes: int | None = None
    """Classes that the model tells apart; by default as many as the data has."""
    classifier_padding: int = 0
    """SqueezeNet only: pixels that conv10 pads its input with; 1 in Caffe's release of v1.0."""
    image_size: int | None = None
    """Height and width of an image, in pixels; 227 by default for alexnet_bvlc, 224 for everything else."""


def default_image_size(name: str) -> int:
    """Height and width, in pixels, of the images that a model was made for."""
    return 227 if name == "alexnet_bvlc" else 224


def smallest_image_size(name: str) -> int:
    """The least height and width, in pixels, that a model can take; 1 for a model of one's own."""
    return _SMALLEST_IMAGE.get(name, 1)


def image_size_of(options: ModelOptions) -> int:
    """Height and width in pixels: as asked for, else what the model was made for."""
    return default_image_size(options.model) if options.image_size is None else options.image_size


def recipe_for(name: str) -> Recipe:
    """The recipe that the model's authors used; a stated default for a model of one's own."""
    if name in _SQUEEZENETS:
        return SQUEEZENET
    return ALEXNET if name in _ALEXNETS else OWN_MODEL


def build_model(options: ModelOptions, num_classes: int) -> nn.Module:
    """A freshly initialised model that maps images [N, 3, S, S] to logits [N, num_classes].

    Raises:
        RequestError: there is no such model, it cannot be made, or it does not do that.
    """
    name = options.model
    image_size = image_size_of(options)
    if num_classes < 1:
        raise RequestError(f"--num-classes {num_classes}: must be at least 1")
    if image_size < smallest_image_size(name):
        raise RequestError(
            f"--image-size {image_size}: too small for {name}, give at least {smallest_image_size(name)}"
        )
    if name in _SQUEEZENETS:
        if options.classifier_padding < 0:
            raise RequestError(f"--classifier-padding {options.classifier_padding}: must be at least 0")
        model = _SQUEEZENETS[name](
            num_classes=num_classes,
            metaparameters=_metaparameters(options),
            classifier_padding=options.classifier_padding,
        )
    else:
        _refuse_metaparameters(options)
        model = _ALEXNETS[name](num_classes) if name in _ALEXNETS else _own_model(name, num_classes)
    check_model(model, image_size, num_classes, name)
    return model


def takes_metaparameters(name: str) -> bool:
    """Whether a model has SqueezeNet's squeeze ratio and share of 3x3 filters."""
    return name in _SQUEEZENETS


def check_model(model: nn.Module, image_size: int, num_classes: int, name: str | None = None) -> None:
    """Runs one black image through the model, in evaluation mode and on the model's own device.

    Raises:
        RequestError: it has nothing to train, fails on the image, or does not return logits [1, num_classes];
            `name` is what the error calls the model, by default its class.
    """
    told = f"--model {name or type(model).__name__}"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError(f"{told}: has no parameters to train; give a model that has some")
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(image)
    except Exception as error:
        raise RequestError(
            f"{told}: fails on an image of shape {list(image.shape)} ({_one_line(error)}); "
            "it must take that shape, whose size --image-size sets"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(output, torch.Tensor):
        raise RequestError(f"{told}: returns {type(output).__name__}, must return a tensor of logits")
    if output.shape != (1, num_classes):
        raise RequestError(
            f"{told}: returns shape {list(output.shape)} for one image, "
            f"must return logits [1, {num_classes}] for --num-classes {num_classes}"
        )


def _metaparameters(options: ModelOptions) -> Metaparameters:
    given: dict[str, Any] = {"squeeze_ratio": options.squeeze_ratio, "pct_3x3": options.pct_3x3}
    return replace(Metaparameters(), **{name: value for name, value in given.items() if value is not None})


def _refuse_metaparameters(options: ModelOptions) -> None:
    for option, value in (("--squeeze-ratio", options.squeeze_ratio), ("--pct-3x3", options.pct_3x3)):
        if value is not None:
            raise RequestError(
                f"{option} {value}: {options.model} has no such ratio; leave it out, or choose --model "
                + ", ".join(_SQUEEZENETS)
            )
    if options.classifier_padding:
        raise RequestError(
            f"--classifier-padding {options.classifier_padding}: {options.model} has no such layer; "
            "leave it out"
        )


def _own_model(name: str, num_classes: int) -> nn.Module:
    factory = _own_factory(name)
    arguments = {"num_classes": num_classes} if _takes_num_classes(factory) else {}
    try:
        model = factory(**arguments)
    except Exception as error:
        raise RequestError(f"--model {name}: the factory failed ({_one_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"--model {name}: the factory returned {type(model).__name__}, must return a torch.nn.Module"
        )
    return model


def _own_factory(name: str) -> Callable[..., Any]:
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise RequestError(
            f"--model {name}: unknown; choose {', '.join(MODELS)}, or package.module:factory for your own"
        )
    # `python launch/ddp.py` puts launch/ on the path, not the directory that the user stands in.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"--model {name}: cannot import {module_name!r} ({_one_line(error)}); "
            "it must be importable from the current directory"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise RequestError(
            f"--model {name}: {module_name} has no {attribute!r}; name a function or class in it"
        )
    if not callable(factory):
        raise RequestError(f"--model {name}: {attribute!r} is not callable; name a function or class")
    return factory  # type: ignore[no-any-return]


def _takes_num_classes(factory: Callable[..., Any]) -> bool:
    try:
        inspect.signature(factory).bind_partial(num_classes=1)
    except (TypeError, ValueError):  # ValueError: a callable written in C may not tell its signature.
        return False
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
