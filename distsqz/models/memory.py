"""What a forward pass needs of memory besides the weights: the tensors alive at each step, room to unfold.

Counted is what a runtime that plans its memory needs for one image, the operations taking their turns as the
model is written:

- an operation's inputs and output exist side by side, and so does whatever a later operation still needs; the
  image counts until its last use, the logits to the end;
- what PyTorch does in place stays in place (`ReLU(inplace=True)`), and a view (flatten, dropout when
  evaluating) takes nothing;
- the parts of a concatenation of channels are written straight into its result, which then exists from the
  first of them on, unless something needs them afterwards;
- what a layer keeps to itself (the indices of a max pool, the squares of a response normalisation) is not
  counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from distsqz.errors import RequestError
from distsqz.models.layers import layer_names


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of the forward pass of one image, in values: a precision gives them bytes."""

    name: str
    """The paper's name of the layer where the model knows it, else its path or the operation's name."""
    live_values: int
    """Of all tensors that exist while the operation runs, its output included."""
    im2col_values: int
    """Of the matrix into which im2col unfolds the whole input of a convolution; 0 where that is its input."""
    im2col_row_values: int
    """Of the part of that matrix that makes one row of the output."""


def memory_steps(model: nn.Module, image_size: int) -> list[Step]:
    """The steps from an image [1, 3, image_size, image_size] to its logits, the image's arrival left out.

    The model is traced by torch.fx, and run once on its own device; on the meta device that costs nothing. A
    grouped convolution unfolds a group at a time.

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
            im2col_values=_im2col_rows(trace, node) * _im2col_row_values(trace, node),
            im2col_row_values=_im2col_row_values(trace, node),
        )
        for index, node in enumerate(nodes)
        if node.op.startswith("call_")
    ]


def _run(model: nn.Module, image_size: int) -> _Trace:
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    try:
        trace = _Trace(model.eval())
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


_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass
class _Buffer:
    """Memory that one or more tensors share, and the first and last step that touch it."""

    values: int
    first: int
    last: int


class _Trace(fx.Interpreter):
    """Runs a traced model and notes which memory every operation reads and writes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(_traced(model))
        self.modules_by_path = dict(model.named_modules())
        self.results: dict[fx.Node, Any] = {}  # kept, so that no storage is freed and its address used again
        self.touched: dict[fx.Node, list[Tensor]] = {}
        self._weights = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one operation."""
        with torch.no_grad():
            result = super().run_node(n)
        self.results[n] = result
        held = [result, *(self.results[read] for read in n.all_input_nodes)]
        self.touched[n] = [
            tensor for value in held for tensor in _tensors(value) if _storage(tensor) not in self._weights
        ]
        return result

    def convolution(self, node: fx.Node) -> _Convolution | None:
        """The layer that the operation is, if it is a convolution."""
        module = self.modules_by_path.get(str(node.target)) if node.op == "call_module" else None
        return module if isinstance(module, _Convolution) else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _storage(tensor: Tensor) -> int:
    """What tells a tensor's memory from another's; on the meta device there are no addresses."""
    return int(tensor.untyped_storage()._cdata)


def _buffers(nodes: list[fx.Node], trace: _Trace) -> list[_Buffer]:
    buffers: dict[int, _Buffer] = {}
    for index, node in enumerate(nodes):
        for tensor in trace.touched[node]:
            whole = tensor.untyped_storage().nbytes() // tensor.element_size()
            buffers.setdefault(_storage(tensor), _Buffer(whole, index, index)).last = index
    for index, node in enumerate(nodes):
        if _joins_channels(node):
            _write_parts_in_place(index, node, trace, buffers)
    return list(buffers.values())


def _joins_channels(node: fx.Node) -> bool:
    if all(node.target is not join for join in (torch.cat, torch.concat, torch.concatenate)):
        return False
    return bool((node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) == 1)


def _write_parts_in_place(index: int, node: fx.Node, trace: _Trace, buffers: dict[int, _Buffer]) -> None:
    """Gives parts that nothing needs afterwards a place in the result, which exists from the first on.

    With one image, a part is a stretch of the result.
    """
    whole = buffers[_storage(trace.results[node])]
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    assert isinstance(parts, list | tuple)
    places = [_storage(trace.results[part]) for part in parts if isinstance(part, fx.Node)]
    for place in set(places) & buffers.keys():
        part = buffers[place]
        if part.last == index and part.first > 0 and places.count(place) == 1:
            whole.first = min(whole.first, part.first)
            del buffers[place]


def _im2col_row_values(trace: _Trace, node: fx.Node) -> int:
    """As many values as a filter has weights, for each position of a row."""
    module = trace.convolution(node)
    if module is None or _is_pointwise(module):
        return 0
    return int(module.weight[0].numel()) * int(trace.results[node].shape[-1])


def _im2col_rows(trace: _Trace, node: fx.Node) -> int:
    if trace.convolution(node) is None:
        return 0
    return int(trace.results[node].shape[2:-1].numel())


def _is_pointwise(module: _Convolution) -> bool:
    """Whether the input itself is the matrix to multiply by."""
    return (
        all(size == 1 for size in module.kernel_size)
        and all(stride == 1 for stride in module.stride)
        and all(pad == 0 for pad in module.padding)
    )
