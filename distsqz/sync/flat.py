"""A model's parameters as the rows of one table, a row a chunk: what arrives in a row is there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from distsqz.errors import InvalidValue
from distsqz.sync.agreement import digest
from distsqz.sync.layout import Layout, Piece, chunk_bytes_for, plan_layout


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are learnt, in the order of the forward pass as far as the module tells."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


SERVED_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Data types of the parameters that a parameter server takes; all parameters of a model have the same one."""


def layout_of(module: nn.Module, shards: int, workers: int) -> Layout:
    """How a model's parameters are cut for so many shards and workers.

    Raises:
        RequestError: there are more shards than elements, parameters share memory, or they are not all of one
            data type that a parameter server takes.
    """
    parameters = trained(module)
    dtype = _common_dtype(module)
    _refuse_shared_memory(module)
    elements = [parameter.numel() for parameter in parameters]
    return plan_layout(elements, shards, dtype.itemsize, chunk_bytes_for(workers))


def _common_dtype(module: nn.Module) -> torch.dtype:
    """The data type of all trained parameters; raises RequestError where there is no single one."""
    names: dict[torch.dtype, list[str]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            names.setdefault(parameter.dtype, []).append(name)
    if len(names) > 1 or not names.keys() <= set(SERVED_DTYPES):
        kinds = " and ".join(
            f"{of_kind[0]}{f' and {len(of_kind) - 1} more' if of_kind[1:] else ''} of {dtype}"
            for dtype, of_kind in names.items()
        )
        raise InvalidValue(
            "model",
            None,
            f"has {kinds}; a parameter server takes parameters of one data type (float32, float64, bfloat16 "
            "or float16): convert the model with .to(dtype), or train it with all-reduce",
        )
    return next(iter(names))


def _refuse_shared_memory(module: nn.Module) -> None:
    """Raises RequestError where a trained parameter shares memory with another one or with a buffer."""
    learnt = [(name, value, True) for name, value in module.named_parameters() if value.requires_grad]
    buffers = [(name, value, False) for name, value in module.named_buffers()]
    ranges = sorted(
        (value.data_ptr(), value.data_ptr() + _span_bytes(value), name, is_trained)
        for name, value, is_trained in [*learnt, *buffers]
        if value.layout is torch.strided and value.numel()
    )
    for (_, end, name, is_trained), (begin, _, other, other_is_trained) in itertools.pairwise(ranges):
        if begin < end and (is_trained or other_is_trained):
            raise InvalidValue(
                "model",
                None,
                f"its {name} and {other} lie in the same memory; a parameter server takes parameters with "
                "memory of their own",
            )


def _span_bytes(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last one."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize


def tensor_views(flat: torch.Tensor, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
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


def piece_digests(row: torch.Tensor, pieces: Sequence[Piece]) -> dict[tuple[int, int], int]:
    """A digest of each piece of a chunk, by the piece's parameter and its first element there."""
    return {
        (piece.parameter, piece.begin): digest(row[piece.offset : piece.offset + piece.elements])
        for piece in pieces
    }


def load_rows(rows: torch.Tensor, module: nn.Module) -> None:
    """Copies parameters from rows into a module."""
    parameters = [parameter.detach() for parameter in trained(module)]
    for view, parameter in zip(tensor_views(rows.view(-1), parameters), parameters, strict=True):
        parameter.copy_(view)


def _dense_strides(parameter: torch.Tensor) -> tuple[int, ...]:
    """The parameter's own strides where they leave no gaps (channels_last does not), else contiguous ones."""
    return torch.empty_like(parameter, device="meta").stride()
