"""Records every collective of torch.distributed where it is handed over, whoever calls it.

While a cell is trained the functions of torch.distributed are replaced by ones that record the calls of its
steps and pass them on. That sees DDP's hooks, those of torch and those of users, and code that knows nothing
of a meter. DDP's all-reduce of its flags of unused parameters, which it makes in C++, passes by; its hook
records it. A Python process group around Gloo's would see these too, but FSDP does not accept one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from distsqz.metering.transfers import Transfer, TransferLog
from distsqz.theory.placement import rank_name


def _nbytes(tensors: Any) -> int:
    """Bytes of a tensor, or of a list of tensors."""
    if isinstance(tensors, torch.Tensor):
        return tensors.nbytes
    return sum(each.nbytes for each in tensors or ())


OPERATIONS: dict[str, tuple[int, str]] = {
    "all_reduce": (0, "tensor"),
    "broadcast": (0, "tensor"),
    "reduce": (0, "tensor"),
    "all_gather": (1, "tensor"),
    "all_gather_into_tensor": (1, "input_tensor"),
    "all_gather_single": (1, "input_tensor"),
    "reduce_scatter": (1, "input_list"),
    "reduce_scatter_tensor": (1, "input"),
    "reduce_scatter_single": (1, "input"),
    "gather": (0, "tensor"),
    "scatter": (1, "scatter_list"),
    "all_to_all": (1, "input_tensor_list"),
    "all_to_all_single": (1, "input"),
    "send": (0, "tensor"),
    "isend": (0, "tensor"),
    "recv": (0, "tensor"),
    "irecv": (0, "tensor"),
}
"""By function: position and name of the argument that a rank hands over."""

ROOTS = {"broadcast": (1, "src"), "reduce": (1, "dst"), "gather": (2, "dst"), "scatter": (2, "src")}
ROOTS |= {"send": (1, "dst"), "isend": (1, "dst"), "recv": (1, "src"), "irecv": (1, "src")}
"""By function: position and name of the argument that names another rank, or the root."""

NAMES = {"isend": "send", "irecv": "recv"}
"""Operations of functions that are not called like them."""


@contextlib.contextmanager
def recorded_collectives(log: TransferLog | None) -> Iterator[None]:
    """Records the collectives that are called in steps meanwhile, from any thread, in a log; in none if it is
    None.
    """
    if log is None:
        yield
        return
    originals = {name: getattr(dist, name) for name in OPERATIONS if hasattr(dist, name)}
    try:
        for name, original in originals.items():
            setattr(dist, name, _recording(name, original, log))
        yield
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def _recording(name: str, original: Callable[..., Any], log: TransferLog) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not log.in_step:
            return original(*args, **kwargs)
        handed_over = _argument(args, kwargs, *OPERATIONS[name])
        peer = _argument(args, kwargs, *ROOTS[name]) if name in ROOTS else None
        payload_bytes = _nbytes(handed_over)
        if name == "scatter" and not handed_over:  # only the root hands the whole list over
            payload_bytes = _nbytes(_argument(args, kwargs, 0, "tensor")) * dist.get_world_size()
        transfer = log.launch(
            NAMES.get(name, name),
            log.launched_in_step,
            payload_bytes,
            None if peer is None else rank_name(peer),
        )
        start = log.now()
        work = original(*args, **kwargs)
        if _has_ended(work):
            log.waited(start)
        _when_done(work, transfer, handed_over)
        return work

    return call


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _has_ended(work: Any) -> bool:
    """Whether a function of torch.distributed returned when its work was done; `recv` returns a rank then."""
    return work is None or isinstance(work, int)


def _when_done(work: Any, transfer: Transfer, handed_over: Any) -> None:
    """Notes the end of a transfer: now if the call waited for it, else when its future completes."""
    tensors = [handed_over] if isinstance(handed_over, torch.Tensor) else handed_over or ()
    if any(tensor.is_cuda for tensor in tensors):
        return  # NCCL's futures complete when the work is queued, not when it is done
    if _has_ended(work):
        transfer.done()
        return
    try:
        future = work.get_future()
    except RuntimeError:  # Gloo's point-to-point work has no future; its end is not known
        return
    future.add_done_callback(lambda _: transfer.done())
