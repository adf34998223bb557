"""Buckets one after the other, for hooks that make several collectives for each.

Torch's PowerSGD launches its second and third all-reduce of a bucket when the one before has ended. Over Gloo
these come in between those of other buckets in another order on every rank, and are taken for one another.
With NCCL a collective is queued at once, in the order of the buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


class InTurn:
    """Runs a hook on a thread of its own, for one bucket after the other, while the backward pass goes on."""

    def __init__(self, hook: Callable[[Any], torch.futures.Future[torch.Tensor]]) -> None:
        self._hook = hook
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="buckets")

    def __call__(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        """Starts to synchronise a bucket when those before it have been; a future of its average."""
        if bucket.buffer().is_cuda:
            return self._hook(bucket)
        synchronised: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        self._thread.submit(self._run, bucket, synchronised)
        return synchronised

    def _run(self, bucket: Any, synchronised: torch.futures.Future[torch.Tensor]) -> None:
        try:
            synchronised.set_result(self._hook(bucket).wait())
        except Exception as error:  # whatever it is, the backward pass is to raise it
            synchronised.set_exception(error)  # type: ignore[arg-type]  # typed wrongly in torch
