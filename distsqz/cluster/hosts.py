"""The hosts of a Ray cluster: what records call them, and which are emulated.

Hosts are told apart by the address that Ray knows their nodes by. Names do not do: machines that were cloned
from one image often share one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from distsqz.metering.wire import emulated_hosts


def host_labels(nodes: Iterable[Mapping[str, Any]] | None = None) -> dict[str, str]:
    """The label of every host by its address: its name, or name@address where several hosts share the name.

    Args:
        nodes: the cluster's nodes as `ray.nodes()` lists them, which is the default.
    """
    every = ray.nodes() if nodes is None else nodes
    # Those that have died count, too: a label must not change while a session goes on.
    names = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in every}
    shared = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {address: f"{name}@{address}" if name in shared else name for address, name in names.items()}


@functools.cache
def this_host() -> str:
    """The label of the host that this process runs on."""
    here = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()
    address = next(node["NodeManagerAddress"] for node in nodes if node["NodeID"] == here)
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
    """Rate of each emulated host's link in bits a second, in each direction; None where none is emulated."""
    hosts = emulated_hosts()
    if hosts is None:
        return None
    labels = host_labels()
    return {labels.get(host.address, host.name): host.rate_bits_per_s for host in hosts}
