"""Memory of a forward pass: stored tensors, live tensors at each step, and workspace to unfold inputs.

The figures are those of a runtime that plans its memory for one image and runs the operations in the order of
the model:

- an operation's inputs and output exist side by side, and so does whatever a later operation still needs; the
  image counts until its last use, the logits to the end;
- what PyTorch does in place stays in place (`ReLU(inplace=True)`), and a view (flatten, dropout when
  evaluating) takes nothing;
- the parts of a concatenation of channels are written straight into its result, which then exists from the
  first of them on, unless something needs them afterwards;
- what an element-wise operation, padding, pooling or normalisation keeps to itself (the indices of a max
  pool, the squares of a response normalisation) is not counted.

A step that multiplies matrices more than once, such as attention or a recurrent layer, has intermediate
results that depend on its implementation; what an unknown operation needs is unknown. Such a step is
`not_understood`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef

from distsqz.errors import RequestError
from distsqz.models.layers import layer_names
from distsqz.models.operations import (
    OperationCounter,
    Work,
    count_operations,
    storage_of,
    storages_of,
    tensors_in,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of the forward pass for one image. Sizes are numbers of values, without a data type."""

    name: str
    """Name of the layer in the paper if the model has one, otherwise its path or the name of the
    operation."""
    live_values: int
    """Number of values of all tensors that exist while the operation runs, including its output."""
    im2col_values: int
    """Values of the matrix into which im2col unfolds the whole input of a convolution; 0 where that is its
    input. For a transposed convolution, values of the matrix that col2im folds into its output."""
    im2col_row_values: int
    """Values of the part of that matrix that makes one row of the output; for a transposed convolution, of
    the part that one row of the input makes."""
    not_understood: str | None = None
    """Why the step may need more memory than these figures; None if it does not."""


def memory_steps(model: nn.Module, image_size: int) -> list[Step]:
    """The steps from an image [1, 3, image_size, image_size] to its logits.

    The model is traced by torch.fx and run once on its device, which costs nothing on the meta device. A
    grouped convolution unfolds one group at a time.

    Raises:
        RequestError: torch.fx cannot trace the model.
    """
    trace = _run(model, image_size)
    nodes = list(trace.touched)
    buffers = _buffers(nodes, trace)
    names = layer_names(model)
    return [
        Step(
            name=names.get(str(node.target), str(node.target)) if node.op == "call_module" else node.name,
            live_values=sum(buffer.values for buffer in buffers if buffer.first <= index <= buffer.last),
            im2col_values=_im2col_values(trace.work[node]),
            im2col_row_values=_im2col_row_values(trace.work[node]),
            not_understood=_not_understood(trace.work[node]),
        )
        for index, node in enumerate(nodes)
        if node.op.startswith("call_")
    ]


def activation_values(model: nn.Module, image_size: int) -> int:
    """Values of all tensors of the forward pass of one image, parts that are joined and the image included.

    A training step keeps most of them for its backward pass, and besides what single operations remember,
    such as the indices of a max pool. The model is run as in `memory_steps`.

    Raises:
        RequestError: torch.fx cannot trace the model.
    """
    made = (tensor for tensors in _run(model, image_size).touched.values() for tensor in tensors)
    values = {storage_of(each): each.untyped_storage().nbytes() // each.element_size() for each in made}
    return sum(values.values())


def stored_tensors(model: nn.Module, image_size: int) -> list[Tensor]:
    """Tensors of a model that must be stored: parameters, and all other tensors that a forward pass reads.

    The others are buffers (the statistics of batch norm, but not its number of batches, which only training
    uses) and constants (tensors that are plain attributes, or that the forward pass creates).

    Raises:
        RequestError: torch.fx cannot trace the model.
    """
    trace = _run(model, image_size)
    read = {storage for work in trace.work.values() for storage in work.storages_read}
    # torch.fx makes constants buffers of the traced model.
    others = dict.fromkeys([*model.buffers(), *trace.module.buffers()])
    return [*model.parameters(), *(tensor for tensor in others if storages_of(tensor) & read)]


def _run(model: nn.Module, image_size: int) -> _Trace:
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        with image.device:  # for tensors that the forward pass creates
            trace = _Trace(model.eval())
            with count_operations(image) as trace.counter:
                trace.run(image)
    finally:
        model.train(was_training)
    return trace


def _traced(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RequestError(
            f"{type(model).__name__}: torch.fx cannot trace it ({type(error).__name__}: {reason}); "
            "its forward must not depend on the image's values"
        ) from error


@dataclass
class _Buffer:
    """A piece of memory that tensors share, and the first and last step that use it."""

    values: int
    first: int
    last: int


class _Trace(fx.Interpreter):
    """Runs a traced model and records what every operation does and which memory it reads and writes."""

    counter: OperationCounter

    def __init__(self, model: nn.Module) -> None:
        super().__init__(_traced(model))
        self.results: dict[fx.Node, Any] = {}  # kept, so that memory is not reused and identifies tensors
        self.touched: dict[fx.Node, list[Tensor]] = {}
        self.work: dict[fx.Node, Work] = {}
        self._stored = storages_of([*model.parameters(), *model.buffers(), *self.module.buffers()])

    def run_node(self, n: fx.Node) -> Any:
        """Runs one operation."""
        self.counter.work = self.work[n] = Work()
        result = super().run_node(n)
        self.results[n] = result
        held = [result, *(self.results[read] for read in n.all_input_nodes)]
        self.touched[n] = [tensor for tensor in tensors_in(held) if not storages_of(tensor) <= self._stored]
        return result


def _buffers(nodes: list[fx.Node], trace: _Trace) -> list[_Buffer]:
    buffers: dict[StorageWeakRef, _Buffer] = {}
    for index, node in enumerate(nodes):
        for tensor in trace.touched[node]:
            whole = tensor.untyped_storage().nbytes() // tensor.element_size()
            buffers.setdefault(storage_of(tensor), _Buffer(whole, index, index)).last = index
    for index, node in enumerate(nodes):
        if _joins_channels(node):
            _write_parts_in_place(index, node, trace, buffers)
    return list(buffers.values())


def _joins_channels(node: fx.Node) -> bool:
    if all(node.target is not join for join in (torch.cat, torch.concat, torch.concatenate)):
        return False
    return bool((node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) == 1)


def _write_parts_in_place(
    index: int, node: fx.Node, trace: _Trace, buffers: dict[StorageWeakRef, _Buffer]
) -> None:
    """Places parts that nothing needs afterwards in the result, which then exists from the first part on.

    With one image, a part is a contiguous range of the result.
    """
    whole = buffers[storage_of(trace.results[node])]
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    assert isinstance(parts, list | tuple)
    places = [storage_of(trace.results[part]) for part in parts if isinstance(part, fx.Node)]
    for place in set(places) & buffers.keys():
        part = buffers[place]
        if part.last == index and part.first > 0 and places.count(place) == 1:
            whole.first = min(whole.first, part.first)
            del buffers[place]


def _im2col_values(work: Work) -> int:
    return max((prod(matrix.columns) * matrix.column_values for matrix in work.unfoldings), default=0)


def _im2col_row_values(work: Work) -> int:
    return max((matrix.columns[-1] * matrix.column_values for matrix in work.unfoldings), default=0)


def _not_understood(work: Work) -> str | None:
    if work.not_understood:
        return ", ".join(sorted(work.not_understood))
    products = len(work.result_bytes)
    return f"multiplies matrices {products} times" if products > 1 else None
