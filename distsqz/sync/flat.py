"""A model's parameters as the rows of one table, a row a chunk: what arrives in a row is there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from distsqz.errors import RequestError
from distsqz.sync.layout import Layout, chunk_bytes_for, plan_layout


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are learnt, in the order of the forward pass as far as the module tells."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def layout_of(module: nn.Module, shards: int, workers: int) -> Layout:
    """How a model's parameters are cut for so many shards and workers.

    Raises:
        RequestError: there are more shards than elements, or parameters are not all float32 or all float64.
    """
    parameters = trained(module)
    dtypes = {parameter.dtype for parameter in parameters}
    if dtypes not in ({torch.float32}, {torch.float64}):
        names = ", ".join(sorted(map(str, dtypes)))
        raise RequestError(
            f"--model: has parameters of {names}; a parameter server takes all float32 or all float64"
        )
    (dtype,) = dtypes
    elements = [parameter.numel() for parameter in parameters]
    return plan_layout(elements, shards, dtype.itemsize, chunk_bytes_for(workers))


def views(flat: torch.Tensor, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Parts of `flat`, one after the other, of the parameters' shapes and their order of memory."""
    starts = itertools.accumulate((parameter.numel() for parameter in parameters), initial=0)
    return [
        flat.as_strided(parameter.shape, _dense_strides(parameter), flat.storage_offset() + start)
        for parameter, start in zip(parameters, starts, strict=False)
    ]


def to_rows(tensors: Sequence[torch.Tensor], layout: Layout, chunks: Sequence[int]) -> torch.Tensor:
    """Copies of some chunks of the parameters: a row each, zero where the last one is padded.

    Args:
        tensors: the parameters, or what is shaped like them.
        layout: how they are cut.
        chunks: which to copy.
    """
    rows = torch.zeros(len(chunks), layout.chunk_elements, dtype=tensors[0].dtype)
    row_of = {chunk: row for row, chunk in enumerate(chunks)}
    for piece in layout.pieces:
        if piece.chunk in row_of:
            tensor = tensors[piece.parameter].detach()
            dense = torch.empty_like(tensor).copy_(tensor) if not _is_dense(tensor) else tensor
            part = dense.as_strided((piece.elements,), (1,), dense.storage_offset() + piece.begin)
            rows[row_of[piece.chunk], piece.offset : piece.offset + piece.elements] = part
    return rows


def joined(parts: Sequence[Mapping[int, torch.Tensor]]) -> torch.Tensor:
    """What each shard gives by chunk, as the rows of one table: chunks x chunk_elements."""
    by_chunk = {chunk: row for part in parts for chunk, row in part.items()}
    return torch.stack([by_chunk[chunk] for chunk in sorted(by_chunk)])


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.stride() == _dense_strides(tensor)


def load_rows(rows: torch.Tensor, module: nn.Module) -> None:
    """Copies parameters from rows into a module."""
    parameters = [parameter.detach() for parameter in trained(module)]
    for view, parameter in zip(views(rows.view(-1), parameters), parameters, strict=True):
        parameter.copy_(view)


def _dense_strides(parameter: torch.Tensor) -> tuple[int, ...]:
    """The parameter's own strides where they leave no gaps (channels_last does not), else contiguous ones."""
    return torch.empty_like(parameter, device="meta").stride()
