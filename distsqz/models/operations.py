"""The operations that a forward pass runs, and the multiply-accumulates of each.

Operations are observed at PyTorch's dispatcher, below the modules: `F.conv2d`, `nn.Conv2d` and a user's own
layer all run the same `aten::convolution`. Convolutions and matrix products are counted by the formulas of
`torch.utils.flop_counter`, which count a multiplication and an addition as two operations; products with
vectors, which it does not know, are counted here. Biases, element-wise arithmetic, normalisation, pooling
and interpolation are not counted. The multiply-accumulates of any other operation are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Unfolding:
    """The matrix into which im2col unfolds the input of a convolution, one group at a time."""

    columns: tuple[int, ...]
    """Columns by dimension: the output's positions, or the input's in a transposed convolution."""
    column_values: int
    """The weights of a filter; 0 in a pointwise convolution, whose input (transposed: output) is the
    matrix."""


@dataclass
class Work:
    """Operations that ran while this object was the current one of an `OperationCounter`."""

    macs: int = 0
    """Multiply-accumulates of the operations that are understood."""
    weight_macs: int = 0
    """The part of `macs` in which one factor does not depend on the image."""
    result_bytes: list[int] = field(default_factory=list)
    """The result of each convolution and matrix product."""
    unfoldings: list[Unfolding] = field(default_factory=list)
    not_understood: set[str] = field(default_factory=set)
    """Operations whose multiply-accumulates are unknown, such as `aten::_trilinear`."""
    storages_read: set[StorageWeakRef] = field(default_factory=set)
    """The memory of every tensor that was read."""


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds every operation that PyTorch runs inside this context to `work`, which the caller may replace."""

    supports_higher_order_operators = True

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self._from_image = storages_of(image)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs one operation and records it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = storages_of((args, kwargs))
        self.work.storages_read |= read
        if read & self._from_image:
            self._from_image |= storages_of(result)
        self._count(func, args, kwargs, result)
        return result

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        packet = getattr(func, "overloadpacket", func)
        macs = _macs(packet, args, kwargs, result)
        if macs is None:
            if not _has_no_products(func):
                self.work.not_understood.add(func.name().partition(".")[0])
            return
        factors = args[1:3] if packet in _WITH_AN_ADDEND else args[:2]
        self.work.macs += macs
        if not all(storages_of(factor) & self._from_image for factor in factors):
            self.work.weight_macs += macs
        self.work.result_bytes.append(sum(map(bytes_of, tensors_in(result))))
        if packet is aten.convolution:
            self.work.unfoldings.append(_unfolding(args, result))


@contextmanager
def count_operations(image: Tensor) -> Iterator[OperationCounter]:
    """A context in which a model can be run on `image`, without gradients, and its operations are counted.

    Fused kernels of attention and of recurrent layers are turned off: their products are then visible one by
    one, and the same on every device.
    """
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    mkldnn = _enable_mkldnn(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), OperationCounter(image) as counter:
            yield counter
    finally:
        _enable_mkldnn(mkldnn)
        torch.backends.mha.set_fastpath_enabled(fast_attention)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def storages_of(value: Any) -> set[StorageWeakRef]:
    """The memory of the tensors in `value`, by which views are known as such, on the meta device too.

    A reference does not keep the memory from being freed. Sparse tensors have no storage.
    """
    return {storage_of(tensor) for tensor in tensors_in(value) if tensor.layout is torch.strided}


def storage_of(tensor: Tensor) -> StorageWeakRef:
    """The memory of a dense tensor."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def _enable_mkldnn(enabled: bool) -> bool:
    """Sets a flag and returns its former value (`torch.backends.mkldnn.flags` would warn of TF32)."""
    set_flags: Callable[..., tuple[bool, ...]] = torch.backends.mkldnn.set_flags
    return set_flags(_enabled=enabled, _fp32_precision=None)[0]


def _macs(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int | None:
    """Multiply-accumulates of one operation; None if there is no formula for it."""
    if packet in _VECTOR_PRODUCTS:
        return int(args[_VECTOR_PRODUCTS[packet]].numel())
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result)) // 2
    return None


def _unfolding(args: tuple[Any, ...], result: Tensor) -> Unfolding:
    inputs, weight, _, stride, padding, _, transposed, *_ = args
    is_pointwise = weight[0, 0].numel() == 1 and set(stride) == {1} and set(padding) == {0}
    return Unfolding(
        columns=tuple((inputs if transposed else result).shape[2:]),
        column_values=0 if is_pointwise else weight[0].numel(),
    )


def _has_no_products(func: Any) -> bool:
    """Whether an operation is known to multiply and accumulate nothing but element by element."""
    if not isinstance(func, OpOverload):
        return False
    if func.is_view or not _TAGS_WITHOUT_PRODUCTS.isdisjoint(func.tags):
        return True
    namespace, _, name = func._schema.name.partition("::")
    return namespace == "aten" and _WITHOUT_PRODUCTS.fullmatch(name) is not None


_WITH_AN_ADDEND = {aten.addmm, aten.baddbmm, aten.addmv}
"""Operations whose first argument is added to the product of the next two."""

_VECTOR_PRODUCTS = {aten.mv: 0, aten.dot: 0, aten.vdot: 0, aten.addmv: 1}
"""The position of the factor whose values are multiplied once each."""

_TAGS_WITHOUT_PRODUCTS = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.inplace_view}

_WITHOUT_PRODUCTS = re.compile(
    "|".join(
        (
            # element by element, but not tagged so
            "glu|threshold_?|_prelu_kernel|log_sigmoid_forward|_thnn_fused_(lstm|gru)_cell|complex|polar",
            # normalisation
            "_(safe_)?softmax|_log_softmax|(native|cudnn|miopen)_batch_norm|_native_batch_norm_legit.*|"
            "native_(layer|group)_norm|_weight_norm_interface|cumsum_?|cumprod_?|native_dropout",
            # pooling and interpolation
            r"\w*_pool[123]d(_with_indices)?|_?upsample_\w+|grid_sampler_[23]d",
            # choosing, moving and copying
            "embedding|index(_select|_put|_add|_copy|_fill)?_?|gather|scatter(_add|_reduce)?_?|sort|topk|median|"
            r"masked_(select|scatter)_?|where|nonzero|unique\w*|_unique2?|bucketize|searchsorted|"
            "cat|stack|roll|flip|repeat|repeat_interleave|tril_?|triu_?|(pixel|channel)_(un)?shuffle|"
            r"im2col|col2im|unsafe_(split|chunk)\w*|(constant|reflection|replication)_pad\w+|diag_embed|"
            r"_to_copy|copy_?|clone|_unsafe_view|\w+_scatter|lift|_local_scalar_dense|resize_|set_",
            # making
            r"(new_)?(empty|zeros|ones|full)(_like|_strided|_permuted)?|zero_?|fill_?|arange|linspace|eye|"
            r"scalar_tensor|randperm|(rand|randn|randint)(_like)?|(bernoulli|normal|uniform|exponential)_?",
        )
    )
)
"""Names of ATen operations that do not multiply and accumulate and have no tag that says so."""
