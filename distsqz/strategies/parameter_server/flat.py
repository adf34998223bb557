"""A model's parameters in one buffer, with a row for each chunk."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from distsqz.errors import InvalidValue
from distsqz.strategies.agreement import digest
from distsqz.strategies.parameter_server.layout import Layout, Piece, chunk_bytes_for, plan_layout


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Trained parameters, in the order of the module (normally that of the forward pass)."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


SERVED_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Data types that a parameter server supports. All parameters of a model must have the same one."""


def layout_of(module: nn.Module, shards: int, workers: int) -> Layout:
    """Divides the parameters of a model into chunks.

    Args:
        module: the model.
        shards: number of shards.
        workers: number of workers.

    Raises:
        InvalidValue: there are more shards than elements, parameters share memory, or they do not all have
            the same supported data type.
    """
    parameters = trained(module)
    dtype = _common_dtype(module)
    _refuse_shared_memory(module)
    elements = [parameter.numel() for parameter in parameters]
    return plan_layout(elements, shards, dtype.itemsize, chunk_bytes_for(workers))


def _common_dtype(module: nn.Module) -> torch.dtype:
    """The common data type of trained parameters; raises InvalidValue if there is none."""
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
    """Raises InvalidValue if a trained parameter shares memory with another one or with a buffer."""
    candidates = [(name, value, True) for name, value in module.named_parameters() if value.requires_grad]
    buffers = [(name, value, False) for name, value in module.named_buffers()]
    ranges = sorted(
        (value.data_ptr(), value.data_ptr() + _span_bytes(value), name, is_trained)
        for name, value, is_trained in [*candidates, *buffers]
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
    """Consecutive views of a buffer, with the shapes and memory orders of the parameters."""
    starts = itertools.accumulate((parameter.numel() for parameter in parameters), initial=0)
    return [
        flat.as_strided(parameter.shape, _dense_strides(parameter), flat.storage_offset() + start)
        for parameter, start in zip(parameters, starts, strict=False)
    ]


def to_rows(tensors: Sequence[torch.Tensor], layout: Layout, chunks: Sequence[int]) -> torch.Tensor:
    """Copies chunks of the parameters into rows: [len(chunks), chunk_elements]. Padding is zero.

    Args:
        tensors: the parameters, or tensors of the same shapes.
        layout: division of the parameters into chunks.
        chunks: numbers of the chunks to copy.
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
    """Joins the chunks of all shards into one tensor: [chunks, chunk_elements]."""
    by_chunk = {chunk: row for part in parts for chunk, row in part.items()}
    return torch.stack([by_chunk[chunk] for chunk in sorted(by_chunk)])


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.stride() == _dense_strides(tensor)


def piece_digests(row: torch.Tensor, pieces: Sequence[Piece]) -> dict[tuple[int, int], int]:
    """Digest of each piece of a chunk, by parameter and first element."""
    return {
        (piece.parameter, piece.begin): digest(row[piece.offset : piece.offset + piece.elements])
        for piece in pieces
    }


def load_rows(rows: torch.Tensor, module: nn.Module) -> None:
    """Copies parameters from rows [chunks, chunk_elements] into a module."""
    parameters = [parameter.detach() for parameter in trained(module)]
    for view, parameter in zip(tensor_views(rows.view(-1), parameters), parameters, strict=True):
        parameter.copy_(view)


def _dense_strides(parameter: torch.Tensor) -> tuple[int, ...]:
    """Strides of the parameter if it is dense (channels_last is too), otherwise contiguous strides."""
    return torch.empty_like(parameter, device="meta").stride()
