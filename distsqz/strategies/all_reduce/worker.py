"""Data parallelism with DistributedDataParallel, whose buckets are synchronised by a hook.

Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (VLDB 2020),
sections 3.2 (bucketing and overlap) and 4.2.
"""

# No postponed annotations: DDP inspects the annotations of the hook and refuses strings.

import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from distsqz.metering.transfers import Transfer, TransferLog
from distsqz.strategies.agreement import adopt_rank_0
from distsqz.strategies.all_reduce.compressors.compressor import Compressor, GradientHook
from distsqz.strategies.all_reduce.options import OwnOptions
from distsqz.strategies.local_replica import LocalReplica
from distsqz.strategies.optimizer import LocalOptimizer
from distsqz.strategies.worker import WorkerContext
from distsqz.theory.collectives import UNUSED_FLAG_BYTES

_DDP_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
NO_BUFFERS_IN_FORWARD: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in _DDP_ARGUMENTS
    else {"broadcast_buffers": False}  # torch 2.11
)
"""The argument that stops DDP from broadcasting rank 0's buffers in every forward pass."""


ONE_BUCKET_MB = float(2**20)
"""A bucket's size that no model exceeds."""


class UnusedParameterError(RuntimeError):
    """A parameter without a gradient, because of which DDP does not all-reduce its bucket."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} took no part in this step; train with `find_unused_parameters=True`")


class DataParallel(LocalReplica):
    """A replica under DDP."""

    def __init__(self, module: nn.Module, context: WorkerContext) -> None:
        """Joins the other replicas of the default group, on which the model has the values of rank 0."""
        options: OwnOptions = context.options
        adopt_rank_0(module)
        self._trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._find_unused = options.find_unused_parameters
        super().__init__(
            module,
            LocalOptimizer(module, context.rule, context.optimizer, all_used=not self._find_unused),
        )
        flags_bytes = UNUSED_FLAG_BYTES * len(self._trained) if self._find_unused else 0
        compressor: Compressor | None = options.made_compressor()
        hook = compressor and compressor.hook(list(self._trained), list(self._trained.values()))
        self._hook: GradientHook = hook or Sum()
        # A sum of losses that were divided is their average; hooks of compressors average themselves.
        self.loss_divisor = 1 if compressor else len(context.placement.workers)
        if context.state:
            self._hook.load(context.state)
        self._buckets = _Buckets(self._hook, context.transfers, flags_bytes)
        bucket_mb = options.bucket_mb
        if compressor and compressor.one_bucket:
            bucket_mb = bucket_mb or ONE_BUCKET_MB
        self.model = replicate(module, self._buckets, bucket_mb, self._find_unused)

    def accumulating(self) -> AbstractContextManager[None]:
        """DDP's `no_sync`: gradients add up, and no bucket is sent."""
        return self.model.no_sync()

    def update(self, *, settle: bool) -> None:  # noqa: ARG002
        """Updates the parameters. All transfers have ended with the backward pass.

        Raises:
            UnusedParameterError: a parameter has no gradient, and `find_unused` is False.
        """
        self._buckets.backward_ended()
        if not self._find_unused:
            self._refuse_unused()
        self.optimizer.update()

    def _refuse_unused(self) -> None:
        for name, parameter in self._trained.items():
            if parameter.grad is None:
                raise UnusedParameterError(name)

    def rank_state(self) -> dict[str, Any] | None:
        """What the compressor keeps on this rank from one step to the next."""
        return self._hook.state()


def replicate(
    module: nn.Module, buckets: "_Buckets", bucket_mb: float | None, find_unused: bool
) -> DistributedDataParallel:
    """Makes `module` a replica in the default group, whose gradients a hook synchronises.

    Buffers (running statistics of batch norm) are not synchronised, so that a
    step synchronises only gradients.

    Args:
        module: the model, with the same parameters and buffers on every rank.
        buckets: synchronises the gradients.
        bucket_mb: approximate size of a bucket, in MiB; None leaves it to DDP, whose first bucket is smaller
            so that sending starts early in the backward pass.
        find_unused: whether parameters may have no gradient in a step.
    """
    device = next(module.parameters()).device
    replica = DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        init_sync=False,  # all ranks have the same values; sending them takes AlexNet minutes on a slow link
        find_unused_parameters=find_unused,
        bucket_cap_mb=bucket_mb,
        gradient_as_bucket_view=True,
        **NO_BUFFERS_IN_FORWARD,
    )
    replica.register_comm_hook(buckets, _synchronise)
    return replica


class Sum:
    """Sums gradients as they are."""

    def __call__(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Starts to all-reduce a bucket; a future of its sum over the ranks."""
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None  # None only for ranks outside of the group; every rank is in the default one
        summed: torch.futures.Future[torch.Tensor] = work.get_future().then(_first)
        return summed

    def state(self) -> None:
        """Nothing is kept from one step to the next."""

    def load(self, state: dict[str, Any]) -> None:  # noqa: ARG002
        """Raises AssertionError: there is nothing to go on from."""
        raise AssertionError("sums have no state")


def _first(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
    return future.value()[0]


class _Buckets:
    """Passes DDP's buckets to a hook, and tells the meter what it cannot see."""

    def __init__(self, hook: GradientHook, transfers: TransferLog | None, flags_bytes: int) -> None:
        self._hook = hook
        self._transfers = transfers
        self._flags_bytes = flags_bytes
        self._flags: Transfer | None = None

    def synchronise(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Starts to synchronise a bucket over the ranks."""
        transfers = self._transfers
        if transfers:
            transfers.gradients_ready()
        synchronised: torch.futures.Future[torch.Tensor] = self._hook(bucket)
        if transfers and self._flags_bytes and bucket.is_last():
            # DDP itself sends its flags from C++, right after the last bucket.
            self._flags = transfers.launch("all_reduce", transfers.launched_in_step, self._flags_bytes)
        return synchronised

    def backward_ended(self) -> None:
        """Called when DDP has waited for everything that it sent."""
        if self._flags:
            self._flags.done()
            self._flags = None


def _synchronise(buckets: _Buckets, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    return buckets.synchronise(bucket)
