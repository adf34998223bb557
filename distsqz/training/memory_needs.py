"""Memory that the cells of a session need, estimated before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from distsqz.data import ImageData
from distsqz.models.memory import activation_values
from distsqz.models.registry import MODELS, make_model
from distsqz.training.cell import Cell, model_options

BYTES_A_VALUE = 4


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """Memory of one cell in bytes, on all workers and servers together."""

    model_bytes: int
    """Parameters, buffers, gradients and momentum, which are kept for the whole session."""
    data_bytes: int
    """Images that are held in memory for the whole session."""
    activation_bytes: int | None
    """Activations that a step keeps for its backward pass; None if unknown."""


def memory_needs(cell: Cell, module: nn.Module, data: ImageData) -> MemoryNeeds:
    """Estimates a lower bound of the memory that a cell needs, so that a cell that is refused could not fit.

    Every worker holds a model and its gradients. Under all-reduce it also has a momentum. With a parameter
    server it has a message for each chunk instead, and the shards together hold parameters, momentum and the
    sum of the gradients once.

    Args:
        cell: what is trained.
        module: its model.
        data: its images.
    """
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    state = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    of_servers = 3 * trained if cell.strategy.has_servers else 0
    activations = _activation_bytes(cell)
    return MemoryNeeds(
        model_bytes=cell.world_size * (state + 2 * trained) + of_servers,
        data_bytes=cell.world_size * _held_bytes(data),
        activation_bytes=None if activations is None else cell.world_size * activations,
    )


def session_bytes(needs: Sequence[MemoryNeeds]) -> int:
    """Memory of a session in bytes. Cells take turns, so only the largest activations count."""
    kept = sum(each.model_bytes for each in needs)
    # Cells that train on the same images share them.
    data = max((each.data_bytes for each in needs), default=0)
    return kept + data + max((each.activation_bytes or 0 for each in needs), default=0)


def _activation_bytes(cell: Cell) -> int | None:
    """Activations that a worker's step keeps; None for a user's own model, whose layers are not known."""
    if cell.model not in MODELS:
        return None
    with torch.device("meta"):
        module = make_model(model_options(cell.model, cell.options), cell.options.num_classes)
    values = activation_values(module, cell.image_size) * cell.options.batch_size
    return values * (BYTES_A_VALUE // 2 if cell.options.precision == "bf16" else BYTES_A_VALUE)


def _held_bytes(data: ImageData) -> int:
    arrays = vars(data.train).values()
    return sum(int(getattr(array, "nbytes", 0)) for array in arrays)
