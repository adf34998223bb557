"""A training step on a worker's GPU before the session, if the driver's host has no GPU."""

from __future__ import annotations

import ray

from distsqz.errors import RequestError
from distsqz.training.directory import enter_directory
from distsqz.training.session import SessionPlan
from distsqz.training.try_out import try_cell


def try_on_worker(plan: SessionPlan, device: str = "cuda") -> None:
    """Makes one training step with the model of every cell, on one host of the cluster.

    Args:
        plan: the session.
        device: `cuda` uses one of Ray's GPUs, `cpu` none.

    Raises:
        RequestError: a model cannot be trained on that host.
    """
    trial = _refusal.options(num_gpus=int(device == "cuda"))
    refusal: RequestError | None = ray.get(trial.remote(plan, device))
    if refusal:
        raise refusal


@ray.remote(max_calls=1)  # type: ignore[untyped-decorator]
def _refusal(plan: SessionPlan, device: str) -> RequestError | None:
    """Tries the models on this host; returns why one of them cannot be trained there, None if all can.

    Its process, which holds memory of the GPU, ends with the call.
    """
    enter_directory(plan.directory)
    try:
        for cell in plan.cells:
            try_cell(cell, device)
    except RequestError as error:
        return error
    return None
