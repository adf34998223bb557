"""Weights from a file into a model: torchvision's published files, and checkpoints that hold a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distsqz.errors import RequestError


def load_weights(model: nn.Module, path: Path) -> None:
    """Copies a state dict, or the one under a checkpoint's key "model", into `model`; nothing is unpickled.

    Raises:
        RequestError: the file cannot be read, or does not fit the model in every name and shape.
    """
    load_state(model, read_weights(path), path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copies the state dict that `path` held into `model`.

    Raises:
        RequestError: it does not fit the model in every name and shape.
    """
    expected = model.state_dict()
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
    model.load_state_dict(state)


def read_weights(path: Path, option: str = "--checkpoint") -> Mapping[str, Tensor]:
    """The state dict of a file, or the one under its key "model"; nothing is unpickled.

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
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(
            f"{option} {path}: holds no state dict; give a dict of tensors, or one under the key 'model'"
        )
    return state
