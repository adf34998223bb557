"""Clients as Ray actors. They receive tasks over Ray and fetch the files over their own TCP connections."""

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
"""Seconds within which Ray must start the clients."""


@ray.remote(num_cpus=0)
class ClientActor:
    """One client that fetches files."""

    def __init__(self, metered: bool) -> None:
        raise_priority()
        self._store = Store()
        self._wire = WireMeter.of_this_host() if metered else None

    def host(self) -> str:
        """The label of the host that the client runs on."""
        return this_host()

    def take(self, task: FetchTask, patience_s: float) -> FetchResult:
        """Fetches a file.

        Raises:
            RunError: the fetch failed.
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
    """Starts clients on the other hosts in turn, or on this host if there is no other.

    Frames are metered only for a client that is alone on its host.

    Raises:
        RunError: Ray did not start them in time.
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
