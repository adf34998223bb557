"""Clients as Ray actors: told over Ray what to fetch, they fetch it over TCP of their own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsqz.cluster.hosts import this_host
from distsqz.cluster.priority import raise_priority
from distsqz.errors import RunError
from distsqz.metering.wire import WireCounters, WireMeter
from distsqz.shipping.store import FetchResult, FetchTask, Store

START_TIMEOUT_S = 120.0
"""Within which Ray has to start the clients."""


@ray.remote(num_cpus=0)
class ClientActor:
    """One client."""

    def __init__(self, metered: bool) -> None:
        raise_priority()
        self._store = Store()
        self._wire = WireMeter.of_this_host() if metered else None

    def host(self) -> str:
        """Where it runs."""
        return this_host()

    def take(self, task: FetchTask, patience_s: float) -> FetchResult:
        """Fetches a task.

        Raises:
            RunError: it could not be had.
        """
        return self._store.take(task, patience_s, self._read_wire)

    def _read_wire(self) -> WireCounters | None:
        return self._wire.read() if self._wire else None


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client that has started."""

    index: int
    actor: Any
    host: str


def start_clients(count: int) -> list[Client]:
    """Starts clients on the other hosts in turn, or on this one if it is the only one.

    The wire is metered where a client has a link to itself.

    Raises:
        RunError: Ray does not start them.
    """
    head = ray.get_runtime_context().get_node_id()
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerHostname"]
    )
    others = [node["NodeID"] for node in nodes if node["NodeID"] != head] or [head]
    places = [others[index % len(others)] for index in range(count)]
    on_node = Counter(places)
    actors = [
        ClientActor.options(  # type: ignore[attr-defined]
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(metered=node != head and on_node[node] == 1)
        for node in places
    ]
    try:
        hosts = ray.get([actor.host.remote() for actor in actors], timeout=START_TIMEOUT_S)
    except GetTimeoutError:
        raise RunError(f"Ray did not start the clients within {START_TIMEOUT_S:.0f} s") from None
    return [
        Client(index=index, actor=actor, host=host)
        for index, (actor, host) in enumerate(zip(actors, hosts, strict=True))
    ]
