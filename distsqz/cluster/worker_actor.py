"""A worker of a session as a Ray actor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import ray
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from distsqz.cluster.collector import CollectorOutbox
from distsqz.cluster.failures import Failure, failure_of
from distsqz.cluster.hosts import emulated_rates_by_host, this_host
from distsqz.cluster.interfaces import metered_interface
from distsqz.cluster.priority import lower_priority, raise_priority
from distsqz.cluster.servers import RayServers
from distsqz.cluster.worker_device import lent_gpus, take_gpu
from distsqz.cluster.worker_env import use_node_interface
from distsqz.metering.wire import LAB_VARIABLE
from distsqz.runs.cores import cores_of_this_host
from distsqz.strategies.parameter_server.channel import StoreAddress
from distsqz.theory.placement import Placement
from distsqz.training.directory import enter_directory
from distsqz.training.replica import Replica
from distsqz.training.session import train_session

NCCL_ERRORS = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
TEAR_DOWN = "1"
"""A collective of NCCL that fails or times out ends the process, after its communicators."""


@dataclass(frozen=True, kw_only=True)
class WorkerPlace:
    """The host, process and GPU of a worker."""

    node: str
    """Id of its Ray node."""
    host: str
    address: str
    pid: int
    gpus: Sequence[str] = ()
    """Ray's ids of the GPUs that the worker has for itself."""


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """The work of one worker."""

    plan: list[Any]
    """Reference to the session's plan, in a list so that Ray does not resolve it."""
    rank: int
    places: Sequence[WorkerPlace]
    """Places of all workers, by rank."""
    gpus: bool
    """Whether workers train on GPUs."""
    servers: Sequence[str]
    """Names of the server actors, by shard; empty for a session without a parameter server."""
    meeting: StoreAddress | None
    """Store at which the ranks form a process group; None for a replacement, which joins no group."""
    attempt: int
    timeout_s: float


@ray.remote
class WorkerActor:
    """One worker that trains."""

    def __init__(self, collector: Any) -> None:
        raise_priority()
        self._collector = collector

    def introduce(self) -> WorkerPlace:
        """Returns the host, process and GPU of the worker."""
        return WorkerPlace(
            node=ray.get_runtime_context().get_node_id(),
            host=this_host(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            gpus=lent_gpus(),
        )

    def work(self, task: WorkerTask) -> Failure | None:
        """Trains to the end; returns the failure if there is one."""
        outbox = CollectorOutbox(self._collector)
        try:
            (reference,) = task.plan
            plan = ray.get(reference)
            enter_directory(plan.directory)
            device = take_gpu() if task.gpus else "cpu"
            _join_group(task)
            servers = RayServers(task.servers) if task.servers else None
            train_session(plan, _replica_of_task(task, device, servers), outbox, servers)
        except Exception as error:
            outbox.close()
            return failure_of(error, task.rank, this_host())
        outbox.close()
        return None


def _join_group(task: WorkerTask) -> None:
    use_node_interface()
    if not task.meeting:
        return
    os.environ.setdefault(NCCL_ERRORS, TEAR_DOWN)
    timeout = timedelta(seconds=task.timeout_s)
    store = task.meeting.connect()
    store.set_timeout(timeout)
    dist.init_process_group(
        "nccl" if task.gpus else "gloo",
        store=PrefixStore(f"group-{task.attempt}", store),
        rank=task.rank,
        world_size=len(task.places),
        timeout=timeout,
    )


def _replica_of_task(task: WorkerTask, device: str, servers: RayServers | None) -> Replica:
    own = task.places[task.rank]
    shards = servers.places if servers else []
    processes = [(place.address, place.pid) for place in task.places]
    if servers:
        processes += [(shard.store.host, pid) for shard, pid in zip(shards, servers.pids, strict=True)]
    first_of_host = task.rank == [place.address for place in task.places].index(own.address)
    if LAB_VARIABLE in os.environ and first_of_host:
        # An emulated host sees only its own processes, but shares the cores with all other hosts.
        lower_priority(psutil.process_iter(), {pid for address, pid in processes if address == own.address})
    return Replica(
        rank=task.rank,
        placement=Placement(
            workers=[place.host for place in task.places], shards=[shard.host for shard in shards]
        ),
        cores=cores_of_this_host(),
        device=device,
        address=own.address,
        interface=metered_interface(own.address, [address for address, _ in processes]),
        emulated_rates_bits_per_s=emulated_rates_by_host(),
        timeout_s=task.timeout_s,
        attempt=task.attempt,
        joins=task.meeting is None,
    )
