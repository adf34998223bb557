"""Checks that replicas hold the same values, and copies rank 0's values to all ranks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class DriftError(RuntimeError):
    """Replicas that must hold the same values do not."""


def digest(tensor: torch.Tensor) -> int:
    """Checksum of a tensor's values, in the order of its indices."""
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(values.view(torch.uint8).numpy().data) if values.numel() else 0


def state_digests(module: nn.Module) -> dict[str, int]:
    """Checksum of each parameter and buffer, by name."""
    return {name: digest(value) for name, value in _state(module).items()}


def adopt_rank_0(module: nn.Module) -> None:
    """Copies rank 0's parameters and buffers to all ranks of the default group, if they differ.

    If all ranks have the same values, only checksums are sent.

    Raises:
        DriftError: ranks have tensors of other names, shapes or data types.
    """
    tensors = _state(module)
    kinds = {name: (tuple(value.shape), str(value.dtype)) for name, value in tensors.items()}
    for name in _unlike(_gather(kinds)):
        raise DriftError(f"{name} does not have the same shape and data type on every rank")
    _broadcast(tensors[name] for name in _unlike(_gather(state_digests(module))))


def adopt_buffers_of_rank_0(module: nn.Module) -> None:
    """Copies rank 0's buffers to all ranks of the default group."""
    _broadcast(module.buffers())


def adopt_buffers(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Copies another replica's buffers, given by name, into those of `module`."""
    for name, buffer in module.named_buffers():
        buffer.detach().copy_(values[name])


def check_parameters(module: nn.Module) -> None:
    """Compares the parameters of all ranks of the default group.

    Raises:
        DriftError: a parameter differs; the message names the parameter and the ranks.
    """
    digests = _gather({name: digest(value) for name, value in module.named_parameters()})
    for rank, of_rank in enumerate(digests):
        check_alike(digests[0], of_rank, "rank 0", f"rank {rank}")


def check_alike(first: Mapping[str, int], second: Mapping[str, int], one: str, other: str) -> None:
    """Compares checksums by name.

    Args:
        first: checksums on one side.
        second: checksums on the other side.
        one: name of the first side, for the error.
        other: name of the second side, for the error.

    Raises:
        DriftError: checksums differ; the message gives the first name for which they do.
    """
    for name, value in first.items():
        if second.get(name) != value:
            raise DriftError(f"the values of {name} on {one} and on {other} differ, and should not")


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _gather(mine: dict[str, Any]) -> list[dict[str, Any]]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def _unlike(by_rank: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values differ between ranks, in the same order on every rank."""
    names = dict.fromkeys(name for of_rank in by_rank for name in of_rank)
    return [name for name in names if len({of_rank.get(name) for of_rank in by_rank}) > 1]


def _broadcast(tensors: Iterable[torch.Tensor]) -> None:
    for tensor in tensors:
        if tensor.numel():
            values = tensor.detach().contiguous().reshape(-1)
            dist.broadcast(values.view(torch.uint8), src=0)  # bytes: Gloo does not send every data type
            if dist.get_rank() != 0:
                tensor.detach().copy_(values.view(tensor.shape))
