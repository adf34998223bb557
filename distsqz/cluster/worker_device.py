"""The device that a worker trains on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray
import torch

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


def lent_gpus() -> list[str]:
    """Ids of the GPUs that Ray has lent to this process."""
    return list(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def take_gpu() -> str:
    """Makes the GPU that Ray has lent to this process torch's current one; returns torch's name of it.

    Raises:
        RuntimeError: Ray has lent none or several, or torch does not see it.
    """
    device = gpu_name(lent_gpus(), os.environ.get(VISIBLE_DEVICES), torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def gpu_name(lent: Sequence[str], visible: str | None, count: int) -> str:
    """Torch's name of a worker's GPU: `cuda:N`, where N counts the GPUs that its process sees.

    Args:
        lent: Ray's ids of the GPUs that the worker has for itself.
        visible: CUDA_VISIBLE_DEVICES of the process; None if it is not set.
        count: number of GPUs that torch sees.

    Raises:
        RuntimeError: Ray has lent none or several, or torch does not see it.
    """
    if len(lent) != 1:
        raise RuntimeError(f"Ray lent this worker {len(lent)} GPUs, and it trains on one")
    (gpu,) = lent
    ids = [str(index) for index in range(count)] if visible is None else visible.split(",")
    if visible is not None and gpu not in ids:
        raise RuntimeError(f"Ray lent GPU {gpu}, and {VISIBLE_DEVICES}={visible} leaves it out")
    if gpu not in ids[:count]:
        raise RuntimeError(f"Ray lent GPU {gpu}, and torch sees {count} GPUs; is its build one for CUDA?")
    return f"cuda:{ids.index(gpu)}"
