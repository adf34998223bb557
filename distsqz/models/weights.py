"""Weights from a file into a model: torchvision's published files, and checkpoints that hold a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distsqz.errors import RequestError

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts save a state dict beside other things."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Copies the state dict of a file into `model`; nothing is unpickled.

    Raises:
        RequestError: the file cannot be read, does not fit the model in every name and shape, or holds NaN.
    """
    load_state(model, read_weights(path), path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copies the state dict that `path` held into `model`, without the prefixes of DDP and torch.compile.

    Raises:
        RequestError: it does not fit the model in every name and shape, or holds NaN.
    """
    expected = model.state_dict()
    state = without_prefixes(state, expected.keys())
    for key, tensor in expected.items():
        if key not in state:
            raise RequestError(
                f"--checkpoint {path}: has no {key!r}; give weights of the model that --model names"
            )
        if state[key].shape != tensor.shape:
            raise RequestError(
                f"--checkpoint {path}: {key!r} has shape {list(state[key].shape)}, "
                f"the model that --model names has {list(tensor.shape)}"
            )
    for key in state:
        if key not in expected:
            raise RequestError(f"--checkpoint {path}: holds {key!r}, the model that --model names has none")
    require_finite(model, f"--checkpoint {path}", state)
    model.load_state_dict(state)


def without_prefixes(state: Mapping[str, Tensor], names: Collection[str]) -> Mapping[str, Tensor]:
    """A state dict under the names of a model, wherever only the prefixes of DDP and torch.compile differ.

    Args:
        state: the state dict, perhaps saved with `module.` or `_orig_mod.` in its keys.
        names: those of the model's tensors.
    """
    by_plain_name = {_plain_name(name): name for name in names}
    return {
        key if key in names else by_plain_name.get(_plain_name(key), key): tensor
        for key, tensor in state.items()
    }


def require_finite(module: nn.Module, message: str, state: Mapping[str, Tensor] | None = None) -> None:
    """Refuses parameters that hold NaN or infinity, and buffers that hold NaN (a mask may be infinite).

    Args:
        module: the model.
        message: begins the line of the error, for example "--checkpoint FILE".
        state: the values, if they are not the model's own.

    Raises:
        RequestError: it names the first such tensor.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in (module.state_dict() if state is None else state).items():
        if (
            not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.sum().isfinite()
        ):  # the sum is quicker
            continue
        wrong = tensor.isnan() if name not in parameters else ~tensor.isfinite()
        if count := int(wrong.sum()):
            raise RequestError(
                f"{message}: {name} holds {count} of {tensor.numel()} values that are NaN or infinite; "
                "training cannot begin with those"
            )


def read_weights(path: Path, option: str = "--checkpoint") -> Mapping[str, Tensor]:
    """The state dict of a file, or the one under a key in `WRAPPERS`; nothing is unpickled.

    Raises:
        RequestError: the file cannot be read, or holds none; it names `option`.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RequestError(f"{option} {path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # torch.load lets any parsing error through.
        raise RequestError(
            f"{option} {path}: is not a file of weights that torch.load(weights_only=True) reads "
            f"({type(error).__name__})"
        ) from error
    state = _unwrapped(content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(
            f"{option} {path}: holds no state dict; give a dict of tensors, or one under the key "
            + " or ".join(map(repr, WRAPPERS))
        )
    return state


def _unwrapped(content: Any) -> Any:
    """What lies under the keys of `WRAPPERS`, however deep."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _plain_name(key: str) -> str:
    # torch.compile leaves its name wherever a part was compiled; DDP stands outside of the whole model.
    return key.replace("_orig_mod.", "").removeprefix("module.")
