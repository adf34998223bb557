"""Models by name: SqueezeNet, AlexNet, and models of one's own as package.module:factory."""

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
from torch.nn.parameter import is_lazy

from distsqz.errors import InvalidValue
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
"""Names of all registered models."""

DEFAULT_CLASSES = 1000
"""Classes of ImageNet, for which the registered models were made."""

METAPARAMETERS = ("squeeze_ratio", "pct_3x3")
"""The fields of `ModelOptions` that have an effect on SqueezeNets alone."""

_SMALLEST_IMAGE = dict.fromkeys(_SQUEEZENETS, 21) | {
    "squeezenet1_1": 17,
    "alexnet": 63,
    "alexnet_bvlc": 39,
}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Choice of a model and its metaparameters."""

    model: str = "squeezenet"
    """Model: squeezenet, squeezenet1_1, squeezenet_simple_bypass, squeezenet_complex_bypass, alexnet,
    alexnet_bvlc, or package.module:factory for a model of your own."""
    squeeze_ratio: float | None = None
    """SqueezeNet only: squeeze filters per expand filter. By default 0.125, as in the paper."""
    pct_3x3: float | None = None
    """SqueezeNet only: share of 3x3 filters among the expand filters. By default 0.5, as in the paper."""
    num_classes: int | None = None
    """Number of classes. By default 1000, or the number that a model of your own has."""
    classifier_padding: int = 0
    """SqueezeNet only: pixels of padding around the input of conv10. It is 1 in Caffe's release of v1.0."""
    image_size: int | None = None
    """Height and width of an image, in pixels. By default 227 for alexnet_bvlc, 224 for other models."""


def default_image_size(name: str) -> int:
    """Height and width of the images that a model was made for, in pixels."""
    return 227 if name == "alexnet_bvlc" else 224


def smallest_image_size(name: str) -> int:
    """Minimum height and width of images for a model, in pixels; 1 for a model of one's own."""
    return _SMALLEST_IMAGE.get(name, 1)


def image_size_of(options: ModelOptions) -> int:
    """The requested height and width, in pixels; by default the size that the model was made for."""
    return default_image_size(options.model) if options.image_size is None else options.image_size


def recipe_for(name: str) -> Recipe:
    """The training recipe of the model's authors, or the default recipe for a model of one's own."""
    if name in _SQUEEZENETS:
        return SQUEEZENET
    return ALEXNET if name in _ALEXNETS else OWN_MODEL


def build_model(options: ModelOptions, num_classes: int | None = None) -> nn.Module:
    """Builds a freshly initialised model that maps images [N, 3, S, S] to logits [N, num_classes].

    Args:
        options: the model; its `num_classes` is ignored.
        num_classes: requested number of classes; None keeps the model's default.

    Raises:
        InvalidValue: there is no such model, it cannot be built, or it does not return such logits.
    """
    model = make_model(options, num_classes)
    check_model(model, image_size_of(options), num_classes, options.model)
    return model


def make_model(options: ModelOptions, num_classes: int | None = None) -> nn.Module:
    """Builds a model like `build_model`, but without checking what it returns.

    A model with lazy parameters runs on one image, which determines their shapes.

    Raises:
        InvalidValue: there is no such model, or it cannot be built.
    """
    name = options.model
    image_size = image_size_of(options)
    if num_classes is not None and num_classes < 1:
        raise InvalidValue("num_classes", num_classes, "must be at least 1")
    if image_size < smallest_image_size(name):
        raise InvalidValue(
            "image_size", image_size, f"too small for {name}, give at least {smallest_image_size(name)}"
        )
    if name in _SQUEEZENETS:
        if options.classifier_padding < 0:
            raise InvalidValue("classifier_padding", options.classifier_padding, "must be at least 0")
        return _SQUEEZENETS[name](
            num_classes=num_classes or DEFAULT_CLASSES,
            metaparameters=_metaparameters(options),
            classifier_padding=options.classifier_padding,
        )
    _refuse_metaparameters(options)
    if name in _ALEXNETS:
        return _ALEXNETS[name](num_classes or DEFAULT_CLASSES)
    model = _own_model(name, num_classes)
    if any(map(is_lazy, model.parameters())):
        _logits_of_an_image(model, image_size, name)
    return model


def own_classes(options: ModelOptions) -> int | None:
    """Number of classes of a model of one's own if none is requested.

    It is the default of the factory's parameter `num_classes`, otherwise the number of outputs of the model
    that the factory builds. None for a registered model and for a factory that requires `num_classes`.

    Raises:
        InvalidValue: the model cannot be built, or does not map images to logits.
    """
    if options.model in MODELS:
        return None
    parameter = _num_classes_parameter(_own_factory(options.model))
    if parameter is not None and _is_required(parameter):
        return None
    default = class_default(options.model)
    if default is not None:
        return default
    return check_model(make_model(options), image_size_of(options), None, options.model)


def class_default(name: str) -> int | None:
    """Default of `num_classes` in the factory of a model of one's own; None without a default.

    Raises:
        InvalidValue: there is no such model.
    """
    parameter = _num_classes_parameter(_own_factory(name))
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else None


def is_rebuilt_for(name: str, num_classes: int) -> bool:
    """Whether a model of one's own is built with another number of classes than its default.

    A factory that takes any keyword arguments has no known default, and its models count as rebuilt.

    Raises:
        InvalidValue: there is no such model.
    """
    if name in MODELS:
        return False
    parameter = _num_classes_parameter(_own_factory(name))
    return parameter is not None and not _is_required(parameter) and parameter.default != num_classes


def takes_metaparameters(name: str) -> bool:
    """Whether a model has a squeeze ratio and a share of 3x3 filters."""
    return name in _SQUEEZENETS


def check_model(
    model: nn.Module, image_size: int, num_classes: int | None = None, name: str | None = None
) -> int:
    """Runs a model on one black image, in evaluation mode on its device; returns the number of logits.

    Args:
        model: the model.
        image_size: height and width of the image, in pixels.
        num_classes: required number of logits; None accepts any number.
        name: name of the model in errors, by default its class.

    Raises:
        InvalidValue: the model has no trainable parameters, fails on the image, or does not return logits
            [1, num_classes].
    """
    name = name or type(model).__name__
    require_trainable(model, name)
    output = _logits_of_an_image(model, image_size, name)
    if not isinstance(output, torch.Tensor):
        raise InvalidValue("model", name, f"returns {type(output).__name__}, must return a tensor of logits")
    expected = "classes" if num_classes is None else num_classes
    if output.ndim != 2 or len(output) != 1 or num_classes not in (None, output.shape[1]):
        wanted = "" if num_classes is None else f" for `num_classes={num_classes}`"
        raise InvalidValue(
            "model",
            name,
            f"returns shape {list(output.shape)} for one image, must return logits [1, {expected}]{wanted}",
        )
    return output.shape[1]


def require_trainable(model: nn.Module, name: str) -> None:
    """Checks that a model has at least one parameter that can be trained.

    Args:
        model: the model.
        name: the model's name in the error.

    Raises:
        InvalidValue: it has none.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidValue("model", name, "has no parameters to train; give a model that has some")


def one_line(error: BaseException) -> str:
    """Class and message of an exception in one line; the message is cut to 200 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _logits_of_an_image(model: nn.Module, image_size: int, name: str) -> Any:
    """Output of a model for a black image, in evaluation mode; sets the shapes of lazy parameters."""
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        with torch.no_grad():
            return model.eval()(image)
    except Exception as error:
        raise InvalidValue(
            "model",
            name,
            f"fails on an image of shape {list(image.shape)} ({one_line(error)}); "
            "it must take that shape, whose size `image_size` sets",
        ) from error
    finally:
        model.train(was_training)


def _metaparameters(options: ModelOptions) -> Metaparameters:
    given: dict[str, Any] = {"squeeze_ratio": options.squeeze_ratio, "pct_3x3": options.pct_3x3}
    return replace(Metaparameters(), **{name: value for name, value in given.items() if value is not None})


def _refuse_metaparameters(options: ModelOptions) -> None:
    for field, value in (("squeeze_ratio", options.squeeze_ratio), ("pct_3x3", options.pct_3x3)):
        if value is not None:
            raise InvalidValue(
                field,
                value,
                f"{options.model} has no such ratio; leave it out, or choose `model` "
                + ", ".join(_SQUEEZENETS),
            )
    if options.classifier_padding:
        raise InvalidValue(
            "classifier_padding",
            options.classifier_padding,
            f"{options.model} has no such layer; leave it out",
        )


def _own_model(name: str, num_classes: int | None) -> nn.Module:
    factory = _own_factory(name)
    parameter = _num_classes_parameter(factory)
    if num_classes is None and parameter is not None and _is_required(parameter):
        num_classes = DEFAULT_CLASSES
    arguments = {} if num_classes is None or parameter is None else {"num_classes": num_classes}
    try:
        model = factory(**arguments)
    except Exception as error:
        raise InvalidValue("model", name, f"the factory failed ({one_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise InvalidValue(
            "model", name, f"the factory returned {type(model).__name__}, must return a torch.nn.Module"
        )
    return model


def _own_factory(name: str) -> Callable[..., Any]:
    module_name, colon, attribute = name.partition(":")
    _refuse_path(name)
    if not colon:
        raise InvalidValue(
            "model", name, f"unknown; choose {', '.join(MODELS)}, or package.module:factory for your own"
        )
    # A script has its own directory on the path, not the current directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InvalidValue(
            "model",
            name,
            f"cannot import {module_name!r} ({one_line(error)}); "
            "it must be importable from the current directory",
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise InvalidValue(
            "model", name, f"{module_name} has no {attribute!r}; name a function or class in it"
        )
    if isinstance(factory, nn.Module):
        raise InvalidValue(
            "model",
            name,
            f"{attribute!r} is a {type(factory).__name__} that is already built; every worker builds its "
            "own, so name its class, or a function that returns a new one",
        )
    if not callable(factory):
        raise InvalidValue("model", name, f"{attribute!r} is not callable; name a function or class")
    return factory  # type: ignore[no-any-return]


def _refuse_path(name: str) -> None:
    """Refuses a path to a file, and suggests the name of its module."""
    path, _, attribute = name.rpartition(":") if ":" in name else (name, "", "")
    if "/" not in path and not path.endswith(".py"):
        return
    file = Path(path.removesuffix(".py"))
    outside = file.is_absolute() or ".." in file.parts
    module = file.name if outside else ".".join(file.parts)
    place = f", with {file.parent} in PYTHONPATH" if outside else ""
    raise InvalidValue(
        "model",
        name,
        f"names a file; give the module and the factory in it, {module}:{attribute or 'FACTORY'}{place}",
    )


def _num_classes_parameter(factory: Callable[..., Any]) -> inspect.Parameter | None:
    """The parameter that accepts `num_classes` by keyword, which may be **kwargs; None without one."""
    try:
        signature = inspect.signature(factory)
        signature.bind_partial(num_classes=1)
    except (TypeError, ValueError):  # ValueError: a callable written in C may have no signature.
        return None
    any_keyword = [each for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD]
    return signature.parameters.get("num_classes") or any_keyword[0]


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
