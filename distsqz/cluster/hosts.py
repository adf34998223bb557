"""The hosts of a Ray cluster: their labels in records, and which are emulated.

The address of a Ray node identifies its host. Names do not: machines cloned from one image often share one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from distsqz.metering.wire import emulated_hosts


def host_labels(nodes: Iterable[Mapping[str, Any]] | None = None) -> dict[str, str]:
    """Labels of hosts by address: the host's name, or name@address if several hosts share the name.

    Args:
        nodes: the nodes of the cluster, by default those of `ray.nodes()`.
    """
    every = ray.nodes() if nodes is None else nodes
    # Dead nodes count too: a label must not change during a session.
    names = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in every}
    shared = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {address: f"{name}@{address}" if name in shared else name for address, name in names.items()}


@functools.cache
def this_host() -> str:
    """The label of the host that this process runs on."""
    own_id = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()
    address = next(node["NodeManagerAddress"] for node in nodes if node["NodeID"] == own_id)
    return host_labels(nodes)[address]


def host_ports() -> dict[str, tuple[str, int]]:
    """An address and port that each living host listens on, by its label."""
    labels = host_labels()
    return {
        labels[node["NodeManagerAddress"]]: (node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
        if node["Alive"]
    }


def emulated_rates_by_host() -> dict[str, int] | None:
    """Rate of each emulated link in each direction, in bits per second; None without emulated hosts."""
    hosts = emulated_hosts()
    if hosts is None:
        return None
    labels = host_labels()
    return {labels.get(host.address, host.name): host.rate_bits_per_s for host in hosts}
