"""Weights from files: torchvision's published ones, and checkpoints that hold a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distsqz.errors import InvalidValue

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts store a state dict beside other entries."""


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Copies the state dict of a file into `model`; nothing is unpickled.

    Raises:
        InvalidValue: the file cannot be read, does not fit the model in every name and shape, or holds NaN.
    """
    load_state(model, read_weights(checkpoint), checkpoint)


def load_state(model: nn.Module, state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Copies a state dict into `model`, without the prefixes of DDP and torch.compile.

    Args:
        model: the model.
        state: the state dict.
        checkpoint: the file that held it, which errors name.

    Raises:
        InvalidValue: the state dict does not fit the model in every name and shape, or holds NaN.
    """
    expected = model.state_dict()
    state = without_prefixes(state, expected.keys())
    for key, tensor in expected.items():
        if key not in state:
            raise InvalidValue(
                "checkpoint", checkpoint, f"has no {key!r}; give weights of the model that `model` names"
            )
        if state[key].shape != tensor.shape:
            raise InvalidValue(
                "checkpoint",
                checkpoint,
                f"{key!r} has shape {list(state[key].shape)}, "
                f"the model that `model` names has {list(tensor.shape)}",
            )
    for key in state:
        if key not in expected:
            raise InvalidValue(
                "checkpoint", checkpoint, f"holds {key!r}, the model that `model` names has none"
            )
    require_finite(model, "checkpoint", checkpoint, state)
    model.load_state_dict(state)


def without_prefixes(state: Mapping[str, Tensor], names: Collection[str]) -> Mapping[str, Tensor]:
    """Renames a state dict to the names of a model, ignoring prefixes of DDP and torch.compile.

    Args:
        state: the state dict, whose keys may contain `module.` or `_orig_mod.`.
        names: names of the model's tensors.
    """
    by_plain_name = {_plain_name(name): name for name in names}
    return {
        key if key in names else by_plain_name.get(_plain_name(key), key): tensor
        for key, tensor in state.items()
    }


def require_finite(
    module: nn.Module, field: str, value: object, state: Mapping[str, Tensor] | None = None
) -> None:
    """Refuses parameters that hold NaN or infinity, and buffers that hold NaN (a mask may be infinite).

    Args:
        module: the model.
        field: the option or parameter that the tensors come from, for example "checkpoint".
        value: the value of `field`.
        state: the tensors, if they are not the model's own.

    Raises:
        InvalidValue: a tensor holds such a value; the reason names the first one.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in (module.state_dict() if state is None else state).items():
        if (
            not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.sum().isfinite()
        ):  # the sum is quicker
            continue
        wrong = tensor.isnan() if name not in parameters else ~tensor.isfinite()
        if count := int(wrong.sum()):
            raise InvalidValue(
                field,
                value,
                f"{name} holds {count} of {tensor.numel()} values that are NaN or infinite; "
                "training cannot begin with those",
            )


def read_weights(checkpoint: Path) -> Mapping[str, Tensor]:
    """Reads the state dict in a file, or the one under a key in `WRAPPERS`; nothing is unpickled.

    Raises:
        InvalidValue: the file cannot be read, or holds no state dict.
    """
    try:
        content: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidValue("checkpoint", checkpoint, f"cannot be read ({error.strerror})") from error
    except Exception as error:  # torch.load lets any parsing error through.
        raise InvalidValue(
            "checkpoint",
            checkpoint,
            f"is not a file of weights that torch.load(weights_only=True) reads ({type(error).__name__})",
        ) from error
    state = _unwrapped(content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidValue(
            "checkpoint",
            checkpoint,
            "holds no state dict; give a dict of tensors, or one under the key "
            + " or ".join(map(repr, WRAPPERS)),
        )
    return state


def _unwrapped(content: Any) -> Any:
    """The innermost entry under keys of `WRAPPERS`."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _plain_name(key: str) -> str:
    # torch.compile adds its prefix at every compiled part; DDP wraps the whole model.
    return key.replace("_orig_mod.", "").removeprefix("module.")
