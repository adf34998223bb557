"""The data-parallel trainer: a session's workers under Ray Train's TorchTrainer."""

from __future__ import annotations

import os
import socket
import time
import traceback
from typing import Any

import psutil
import ray
import ray.train
from ray.train import RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from distsqz.errors import RunError
from distsqz.metering.wire import LAB_VARIABLE
from distsqz.orchestration.collector import CollectorOutbox
from distsqz.orchestration.failures import Failure
from distsqz.orchestration.network import interface_of, metered_interface
from distsqz.orchestration.priority import step_aside
from distsqz.training.replica import Replica, cores_of_this_host
from distsqz.training.session import SessionPlan, run_session

KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""For glibc (mallopt(3)): else tensors that are freed go back to the kernel, to be faulted in again in the
next step. AlexNet's step takes 15% less with these, under Ray or not (benchmarks/overhead)."""


PARTING_S = 2.0


class _LetOthersFinish(UserCallback):  # type: ignore[misc]  # Ray is untyped
    """Train kills all workers as soon as one has failed; what the others still have to tell comes first."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if len(worker_exceptions) < run_context.scaling_config.num_workers:
            time.sleep(PARTING_S)


class _NodeInterfaceBackend(_TorchBackend):  # type: ignore[misc]  # Ray is untyped
    """Torch's process group over the interface that holds Ray's own node address.

    Left to itself Gloo asks the host name, which often leads to 127.0.0.1 and no further.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_use_node_interface)
        super().on_start(worker_group, backend_config)


class NodeInterfaceTorchConfig(TorchConfig):  # type: ignore[misc]
    """Train's torch settings, with the network interface chosen for each worker."""

    @property
    def backend_cls(self) -> type[_NodeInterfaceBackend]:
        """The backend that chooses it."""
        return _NodeInterfaceBackend


def _use_node_interface() -> None:
    address = ray.util.get_node_ip_address()
    interface = interface_of(address)
    if interface is None:
        raise RuntimeError(
            f"no network interface of {socket.gethostname()} holds Ray's node address {address}"
        )
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # without the sign NCCL takes it for a prefix


def train_data_parallel(
    plan: SessionPlan, workers: int, use_gpu: bool, timeout_s: int, storage: str, collector: Any
) -> None:
    """Runs a session on `workers` Ray Train workers; returns when the last cell is trained.

    Raises:
        ray.train.TrainingFailedError: a worker failed.
    """
    TorchTrainer(
        _worker,
        train_loop_config={"plan": ray.put(plan), "collector": collector},
        torch_config=NodeInterfaceTorchConfig(timeout_s=timeout_s),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, placement_strategy="SPREAD"),
        run_config=RunConfig(
            storage_path=storage,
            worker_runtime_env={"env_vars": KEEP_FREED_MEMORY},
            callbacks=[_LetOthersFinish()],
        ),
    ).fit()


def _worker(config: dict[str, Any]) -> None:
    outbox = CollectorOutbox(config["collector"])
    try:
        run_session(ray.get(config["plan"]), _replica(), outbox)
    except Exception as error:
        outbox.close(_failure(error))
        raise
    outbox.close()


def _replica() -> Replica:
    import torch.distributed as dist
    from ray.train.torch import get_device

    context = ray.train.get_context()
    address = ray.util.get_node_ip_address()
    places: list[Any] = [None] * context.get_world_size()
    dist.all_gather_object(places, (address, os.getpid()))
    if LAB_VARIABLE in os.environ and context.get_local_rank() == 0:
        # An emulated host sees its own processes only, and shares the cores with those of all others.
        step_aside(psutil.process_iter(), {pid for place, pid in places if place == address})
    return Replica(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_world_size=context.get_local_world_size(),
        host=socket.gethostname(),
        cores=cores_of_this_host(),
        device=str(get_device()),
        address=address,
        interface=metered_interface(address, [place for place, _ in places]),
    )


def _failure(error: Exception) -> Failure:
    known = error if isinstance(error, RunError) else None
    text = known.text if known else f"{type(error).__name__}: {error}"
    return Failure(
        text=text.splitlines()[0],
        cell=known.cell if known else None,
        host=socket.gethostname(),
        rank=ray.train.get_context().get_world_rank(),
        step=known.step if known else None,
        trace=traceback.format_exc(),
        of_communication=_is_of_communication(error),
    )


def _is_of_communication(error: BaseException) -> bool:
    """Whether a collective broke; Gloo has no exception of its own, its messages name its source files."""
    from torch.distributed import DistError

    cause = error.__cause__ or error
    return isinstance(cause, DistError) or (isinstance(cause, RuntimeError) and "/gloo/" in str(cause))
