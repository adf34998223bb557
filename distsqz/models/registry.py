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
from torch.nn.parameter import is_lazy

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

DEFAULT_CLASSES = 1000
"""Classes of ImageNet, which the models of the registry were made for."""

METAPARAMETERS = ("squeeze_ratio", "pct_3x3")
"""The fields of `ModelOptions` that have an effect on SqueezeNets alone."""

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
    """Classes that the model tells apart; by default 1000, or what a model of your own has by itself."""
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


def build_model(options: ModelOptions, num_classes: int | None = None) -> nn.Module:
    """A freshly initialised model that maps images [N, 3, S, S] to logits [N, num_classes].

    Args:
        options: which model; its own `num_classes` is left to the caller.
        num_classes: classes that it is asked to tell apart; None keeps its default.

    Raises:
        RequestError: there is no such model, it cannot be made, or it does not do that.
    """
    model = make_model(options, num_classes)
    check_model(model, image_size_of(options), num_classes, options.model)
    return model


def make_model(options: ModelOptions, num_classes: int | None = None) -> nn.Module:
    """As `build_model`, but without trying the model out.

    Lazy parameters have their shapes: one image is run through a model that has any.

    Raises:
        RequestError: there is no such model, or it cannot be made.
    """
    name = options.model
    image_size = image_size_of(options)
    if num_classes is not None and num_classes < 1:
        raise RequestError(f"--num-classes {num_classes}: must be at least 1")
    if image_size < smallest_image_size(name):
        raise RequestError(
            f"--image-size {image_size}: too small for {name}, give at least {smallest_image_size(name)}"
        )
    if name in _SQUEEZENETS:
        if options.classifier_padding < 0:
            raise RequestError(f"--classifier-padding {options.classifier_padding}: must be at least 0")
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
        _logits_of_an_image(model, image_size, f"--model {name}")
    return model


def own_classes(options: ModelOptions) -> int | None:
    """The number of classes that a model of one's own has where none is asked for.

    It is the default of the factory's `num_classes`, or the number of outputs of the model that a factory
    without such a default makes. None: any number will do (a model of the registry, or a factory that
    requires `num_classes`).

    Raises:
        RequestError: the model cannot be made, or does not map images to logits.
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
    """The default of `num_classes` in the signature of a model of one's own, where it has a number there.

    Raises:
        RequestError: there is no such model.
    """
    parameter = _num_classes_parameter(_own_factory(name))
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else None


def is_rebuilt_for(name: str, num_classes: int) -> bool:
    """Whether a model that has a number of classes by itself is built with another where it is asked to.

    A factory that takes any keywords does not tell its number: it counts as rebuilt.

    Raises:
        RequestError: there is no such model.
    """
    if name in MODELS:
        return False
    parameter = _num_classes_parameter(_own_factory(name))
    return parameter is not None and not _is_required(parameter) and parameter.default != num_classes


def takes_metaparameters(name: str) -> bool:
    """Whether a model has SqueezeNet's squeeze ratio and share of 3x3 filters."""
    return name in _SQUEEZENETS


def check_model(
    model: nn.Module, image_size: int, num_classes: int | None = None, name: str | None = None
) -> int:
    """Runs one black image through the model, in evaluation mode and on its own device; counts the logits.

    Args:
        model: the model.
        image_size: height and width of the image, in pixels.
        num_classes: logits that it must return; None takes any number.
        name: what an error calls the model; by default its class.

    Raises:
        RequestError: it has nothing to train, fails on the image, or does not return logits [1, num_classes].
    """
    message = f"--model {name or type(model).__name__}"
    require_trainable(model, message)
    output = _logits_of_an_image(model, image_size, message)
    if not isinstance(output, torch.Tensor):
        raise RequestError(f"{message}: returns {type(output).__name__}, must return a tensor of logits")
    expected = "classes" if num_classes is None else num_classes
    if output.ndim != 2 or len(output) != 1 or num_classes not in (None, output.shape[1]):
        option = "" if num_classes is None else f" for --num-classes {num_classes}"
        raise RequestError(
            f"{message}: returns shape {list(output.shape)} for one image, "
            f"must return logits [1, {expected}]{option}"
        )
    return output.shape[1]


def require_trainable(model: nn.Module, message: str) -> None:
    """Raises RequestError, which begins with `message`, where no parameter of the model can be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError(f"{message}: has no parameters to train; give a model that has some")


def one_line(error: BaseException) -> str:
    """The class of an exception and the beginning of its message, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _logits_of_an_image(model: nn.Module, image_size: int, message: str) -> Any:
    """What a model returns in evaluation mode; a lazy parameter gets its shape by that."""
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        with torch.no_grad():
            return model.eval()(image)
    except Exception as error:
        raise RequestError(
            f"{message}: fails on an image of shape {list(image.shape)} ({one_line(error)}); "
            "it must take that shape, whose size --image-size sets"
        ) from error
    finally:
        model.train(was_training)


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


def _own_model(name: str, num_classes: int | None) -> nn.Module:
    factory = _own_factory(name)
    parameter = _num_classes_parameter(factory)
    if num_classes is None and parameter is not None and _is_required(parameter):
        num_classes = DEFAULT_CLASSES
    arguments = {} if num_classes is None or parameter is None else {"num_classes": num_classes}
    try:
        model = factory(**arguments)
    except Exception as error:
        raise RequestError(f"--model {name}: the factory failed ({one_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"--model {name}: the factory returned {type(model).__name__}, must return a torch.nn.Module"
        )
    return model


def _own_factory(name: str) -> Callable[..., Any]:
    module_name, colon, attribute = name.partition(":")
    _refuse_path(name)
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
            f"--model {name}: cannot import {module_name!r} ({one_line(error)}); "
            "it must be importable from the current directory"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise RequestError(
            f"--model {name}: {module_name} has no {attribute!r}; name a function or class in it"
        )
    if isinstance(factory, nn.Module):
        raise RequestError(
            f"--model {name}: {attribute!r} is a {type(factory).__name__} that is already built; every "
            "worker builds its own, so name its class, or a function that returns a new one"
        )
    if not callable(factory):
        raise RequestError(f"--model {name}: {attribute!r} is not callable; name a function or class")
    return factory  # type: ignore[no-any-return]


def _refuse_path(name: str) -> None:
    """Refuses a file where a module is to be named, with the name that would do."""
    path, _, attribute = name.rpartition(":") if ":" in name else (name, "", "")
    if "/" not in path and not path.endswith(".py"):
        return
    file = Path(path.removesuffix(".py"))
    outside = file.is_absolute() or ".." in file.parts
    module = file.name if outside else ".".join(file.parts)
    place = f", with {file.parent} in PYTHONPATH" if outside else ""
    raise RequestError(
        f"--model {name}: names a file; give the module and the factory in it, "
        f"{module}:{attribute or 'FACTORY'}{place}"
    )


def _num_classes_parameter(factory: Callable[..., Any]) -> inspect.Parameter | None:
    """The parameter that takes `num_classes` by keyword, if any; it may be one for any keywords."""
    try:
        signature = inspect.signature(factory)
        signature.bind_partial(num_classes=1)
    except (TypeError, ValueError):  # ValueError: a callable written in C may not tell its signature.
        return None
    any_keyword = [each for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD]
    return signature.parameters.get("num_classes") or any_keyword[0]


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
