"""Workers of a session under Ray Train's TorchTrainer, with the servers that some of its cells need."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import Any

import psutil
import ray
import ray.train
from ray.train import RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from distsqz.cluster.collector import CollectorOutbox
from distsqz.cluster.failures import REPORTING_S, failure_of
from distsqz.cluster.hosts import emulated_rates_by_host, this_host
from distsqz.cluster.interfaces import metered_interface
from distsqz.cluster.priority import lower_priority
from distsqz.cluster.servers import RayServers, start_servers
from distsqz.cluster.worker_env import KEEP_FREED_MEMORY, use_node_interface
from distsqz.metering.wire import LAB_VARIABLE
from distsqz.runs.cell_facts import ServerMemory
from distsqz.runs.cores import cores_of_this_host
from distsqz.theory.placement import Placement
from distsqz.training.directory import enter_directory
from distsqz.training.replica import Replica
from distsqz.training.session import SessionPlan, train_session


class _LetOthersFinish(UserCallback):  # type: ignore[misc]  # Ray is untyped
    """Delays the end of all workers after a failure, so that other workers can report theirs."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if len(worker_exceptions) < run_context.scaling_config.num_workers:
            time.sleep(REPORTING_S)


class _NodeInterfaceBackend(_TorchBackend):  # type: ignore[misc]  # Ray is untyped
    """Torch's process group over the interface that holds Ray's node address.

    By default Gloo resolves the host name, which often gives 127.0.0.1.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


class NodeInterfaceTorchConfig(TorchConfig):  # type: ignore[misc]
    """Train's torch settings, with the network interface chosen on each worker."""

    @property
    def backend_cls(self) -> type[_NodeInterfaceBackend]:
        """The backend that chooses the interface."""
        return _NodeInterfaceBackend


class _LeanTrainer(TorchTrainer):  # type: ignore[misc]  # Ray is untyped
    """A trainer without idle actors: each of them would wake up 85 times per second."""

    _idle: tuple[type, ...] = (DatasetsCallback,)  # it receives no dataset of Ray

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, self._idle)]


class _EmbeddedTrainer(_LeanTrainer):
    """A trainer for an embedded Ray, which frees its placement groups when it stops."""

    _idle = (*_LeanTrainer._idle, PlacementGroupCleanerCallback)


def train(
    plan: SessionPlan,
    workers: int,
    use_gpu: bool,
    timeout_s: int,
    storage: str,
    collector: Any,
    *,
    embedded: bool,
) -> None:
    """Runs a session on Ray Train workers; returns when the last cell is trained.

    Args:
        plan: the session.
        workers: number of workers.
        use_gpu: whether each worker trains on a GPU.
        timeout_s: seconds within which a collective must end.
        storage: directory for Train's own files.
        collector: actor that receives records and checkpoints.
        embedded: whether Ray was started for this session.

    Raises:
        ray.train.TrainingFailedError: a worker failed.
    """
    trainer = _EmbeddedTrainer if embedded else _LeanTrainer
    trainer(
        _worker,
        train_loop_config={"plan": [ray.put(plan)], "collector": collector, "timeout_s": timeout_s},
        torch_config=NodeInterfaceTorchConfig(timeout_s=timeout_s),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, placement_strategy="SPREAD"),
        run_config=RunConfig(
            storage_path=storage,
            worker_runtime_env={"env_vars": KEEP_FREED_MEMORY},
            callbacks=[_LetOthersFinish()],
        ),
    ).fit()


def end_controller() -> None:
    """Kills the controller process of Ray Train, a child of this process on an embedded Ray.

    A call of `train` in another thread then returns.
    """
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()).startswith("ray::TrainController"):
                process.kill()


def _worker(config: dict[str, Any]) -> None:
    outbox = CollectorOutbox(config["collector"])
    try:
        (reference,) = config["plan"]
        plan = ray.get(reference)
        enter_directory(plan.directory)
        with contextlib.ExitStack() as stack:
            servers = _servers(plan, reference, config["collector"], stack) if plan.server else None
            train_session(plan, _replica_of_train_worker(servers, config["timeout_s"]), outbox, servers)
            if servers and ray.train.get_context().get_world_rank() == 0:
                peaks = servers.close()
                for cell in plan.cells:
                    if cell.server:
                        outbox.describe(cell.name, ServerMemory(server_peak_rss_bytes=peaks))
    except Exception as error:
        outbox.close(failure_of(error, ray.train.get_context().get_world_rank(), this_host()))
        raise
    outbox.close()


def _servers(plan: SessionPlan, reference: Any, collector: Any, stack: contextlib.ExitStack) -> RayServers:
    """The session's servers. The first worker starts them when all workers have their places."""
    import torch.distributed as dist

    first = ray.train.get_context().get_world_rank() == 0
    nodes = _all_gather(ray.get_runtime_context().get_node_id())
    names: list[Any] = [None]
    if first:
        assert plan.server is not None
        token = secrets.token_hex(4)
        names[0], actors = start_servers(plan.server, nodes, reference, collector, KEEP_FREED_MEMORY, token)
        stack.callback(lambda: [ray.kill(actor) for actor in actors])
    dist.broadcast_object_list(names)
    return RayServers(names[0])


def _all_gather(mine: Any) -> list[Any]:
    import torch.distributed as dist

    gathered: list[Any] = [None] * ray.train.get_context().get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def _replica_of_train_worker(servers: RayServers | None, timeout_s: float) -> Replica:
    from ray.train.torch import get_device

    context = ray.train.get_context()
    address = ray.util.get_node_ip_address()
    workers = _all_gather((address, os.getpid(), this_host()))
    places = [(worker_address, pid) for worker_address, pid, _ in workers]
    shards = servers.places if servers else []
    if servers:
        places += [(shard.store.host, pid) for shard, pid in zip(shards, servers.pids, strict=True)]
    if LAB_VARIABLE in os.environ and context.get_local_rank() == 0:
        # An emulated host sees only its own processes, but shares the cores with all other hosts.
        lower_priority(psutil.process_iter(), {pid for place, pid in places if place == address})
    return Replica(
        rank=context.get_world_rank(),
        placement=Placement(workers=[host for *_, host in workers], shards=[shard.host for shard in shards]),
        cores=cores_of_this_host(),
        device=str(get_device()),
        address=address,
        interface=metered_interface(address, [place for place, _ in places]),
        emulated_rates_bits_per_s=emulated_rates_by_host(),
        timeout_s=timeout_s,
    )
