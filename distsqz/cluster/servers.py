"""The shards of a parameter server as Ray actors: their placement, and how workers reach them."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsqz.cluster.collector import SEND_EVERY_S, CollectorOutbox
from distsqz.cluster.hosts import this_host
from distsqz.errors import InvalidValue
from distsqz.metering.schema import UpdateRecord
from distsqz.strategies.parameter_server.flat import joined
from distsqz.strategies.parameter_server.options import Placement, ServerOptions
from distsqz.strategies.parameter_server.worker import ShardPlace
from distsqz.training.directory import enter_directory
from distsqz.training.server import Server


@ray.remote(num_cpus=0)
class ServerActor:
    """One server. Ray starts it and connects workers to it; gradients do not pass through Ray."""

    def __init__(self, plan: Any, index: int, collector: Any, attempt: int) -> None:
        self._outbox = CollectorOutbox(collector)
        self._sending = threading.Lock()
        self._records: list[UpdateRecord] = []
        address = ray.util.get_node_ip_address()
        enter_directory(plan.directory)
        self._server = Server(plan, index, this_host(), address, self._records.append, attempt)
        threading.Thread(target=self._send_records, daemon=True).start()

    def introduce(self) -> tuple[ShardPlace, int]:
        """Returns the place at which workers connect, and the process id."""
        return self._server.place, os.getpid()

    def admit(self, cell: str, rank: int, name: str, step: int) -> None:
        """Starts to connect to a worker."""
        self._server.admit(cell, rank, name, step)

    def parameters(self, cell: str) -> dict[int, torch.Tensor]:
        """The parameters by chunk."""
        return self._server.parameters(cell)

    def momentum(self, cell: str) -> dict[int, torch.Tensor]:
        """The optimizer's momentum by chunk."""
        return self._server.momentum(cell)

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        """A digest of each piece that it owns."""
        return self._server.digests(cell)

    def progress(self, cell: str, rank: int) -> int:
        """Steps that a worker has finished."""
        return self._server.progress(cell, rank)

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        """Stores a cell's module buffers (such as running means) for workers that join later."""
        self._server.keep_buffers(cell, buffers)

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        """The buffers of a cell that were stored last."""
        return self._server.buffers(cell)

    def close(self) -> int:
        """Sends the remaining records; returns the peak memory of the process, in bytes."""
        with self._sending:
            self._outbox.put({"updates": self._taken()})
            self._outbox.close()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _send_records(self) -> None:
        """Sends records once per interval, in a thread of its own so that gradients do not wait."""
        while True:
            time.sleep(SEND_EVERY_S)
            with self._sending:
                if records := self._taken():
                    self._outbox.put({"updates": records})

    def _taken(self) -> list[UpdateRecord]:
        count = len(self._records)  # more may be appended meanwhile
        taken = self._records[:count]
        del self._records[:count]
        return taken


class RayServers:
    """The servers of a session, as a worker reaches them."""

    def __init__(self, names: Sequence[str]) -> None:
        """Finds the actors by their names, which are ordered by shard."""
        self._actors = [ray.get_actor(name) for name in names]
        introduced = ray.get([actor.introduce.remote() for actor in self._actors])
        self.places: Sequence[ShardPlace] = [place for place, _ in introduced]
        self.pids = [pid for _, pid in introduced]

    def admit(self, cell: str, rank: int, name: str, step: int) -> None:
        """Asks every server to connect to a worker that starts with `step`, and returns at once."""
        for actor in self._actors:
            actor.admit.remote(cell, rank, name, step)

    def parameters(self, cell: str) -> torch.Tensor:
        """The parameters of a cell: [chunks, chunk_elements]."""
        return joined(ray.get([actor.parameters.remote(cell) for actor in self._actors]))

    def momentum(self, cell: str) -> torch.Tensor:
        """The optimizer's momentum of a cell: [chunks, chunk_elements]."""
        return joined(ray.get([actor.momentum.remote(cell) for actor in self._actors]))

    def digests(self, cell: str) -> dict[tuple[int, int], int]:
        """A digest of each piece of a cell's parameters."""
        by_shard = ray.get([actor.digests.remote(cell) for actor in self._actors])
        return {piece: value for of_shard in by_shard for piece, value in of_shard.items()}

    def progress(self, cell: str, rank: int) -> int:
        """Steps that a worker has finished; the worker may be gone."""
        return int(min(ray.get([actor.progress.remote(cell, rank) for actor in self._actors])))

    def keep_buffers(self, cell: str, buffers: Mapping[str, torch.Tensor]) -> None:
        """Stores a cell's module buffers on the first server, for workers that join later."""
        ray.get(self._actors[0].keep_buffers.remote(cell, buffers))

    def buffers(self, cell: str) -> Mapping[str, torch.Tensor]:
        """The module buffers that were stored last for a cell."""
        stored: Mapping[str, torch.Tensor] = ray.get(self._actors[0].buffers.remote(cell))
        return stored

    def close(self) -> list[int]:
        """Makes the servers send their remaining records; returns the peak memory of each, in bytes."""
        return list(ray.get([actor.close.remote() for actor in self._actors]))


def start_servers(
    options: ServerOptions,
    worker_nodes: Sequence[str],
    plan: Any,
    collector: Any,
    env: dict[str, str],
    token: str,
    attempt: int = 0,
) -> tuple[list[str], list[Any]]:
    """Starts the servers; returns their names and handles, which keep them alive.

    Args:
        options: number and placement of the servers.
        worker_nodes: the Ray node of each worker, by rank.
        plan: a reference to the session's plan.
        collector: actor that receives their records.
        env: environment variables of the servers.
        token: identifies the session in their names.
        attempt: number of earlier starts.
    """
    everywhere = [str(node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    nodes = nodes_for(options, worker_nodes, everywhere)
    names = [f"distsqz-{token}-server-{index}" for index in range(options.shards)]
    actors = [
        ServerActor.options(  # type: ignore[attr-defined]
            name=name,
            max_concurrency=4,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            runtime_env={"env_vars": env},
        ).remote(plan, index, collector, attempt)
        for index, (name, node) in enumerate(zip(names, nodes, strict=True))
    ]
    return names, actors


def nodes_for(options: ServerOptions, worker_nodes: Sequence[str], everywhere: Sequence[str]) -> list[str]:
    """The Ray node of each server, by shard."""
    with_workers = list(dict.fromkeys(worker_nodes))
    free = [node for node in everywhere if node not in with_workers]
    chosen = free if options.placement == "dedicated" and len(free) >= options.shards else with_workers
    return [chosen[index % len(chosen)] for index in range(options.shards)]


def check_servers_fit(placement: Placement, servers: int, workers: int, hosts: int, cpus: int) -> None:
    """Checks that a cluster has room for the servers beside the workers.

    Raises:
        InvalidValue: there is not enough room.
    """
    if servers > cpus:
        raise InvalidValue("servers", servers, f"the cluster has {cpus} CPUs; ask for fewer")
    if placement == "dedicated" and 1 < hosts < workers + servers:
        raise InvalidValue(
            "servers",
            servers,
            f"dedicated ones take hosts of their own, and `workers={workers}` leave "
            f"{max(0, hosts - workers)} of the cluster's {hosts}; ask for fewer, or `placement=colocated`",
        )
