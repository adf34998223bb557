"""The cost of a parameter server: workers push gradients to shards and pull parameters from them.

Source: Li et al., "Scaling Distributed Machine Learning with the Parameter Server" (OSDI 2014), section 2;
the bounds follow from counting what crosses each host's link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distsqz.theory.links import MeasuredLink, link_bound_s
from distsqz.theory.placement import LinkLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTraffic:
    """Load of one host's link in one step, in bytes of payload."""

    push_tx_bytes: int
    """Gradients from workers on this host to shards on other hosts."""
    push_rx_bytes: int
    """Gradients from workers on other hosts to shards on this host."""
    pull_tx_bytes: int
    """Parameters from shards on this host to workers on other hosts."""
    pull_rx_bytes: int
    """Parameters from shards on other hosts to workers on this host."""

    @property
    def load(self) -> LinkLoad:
        """Sum of pushes and pulls in each direction."""
        return LinkLoad(self.push_tx_bytes + self.pull_tx_bytes, self.push_rx_bytes + self.pull_rx_bytes)


def traffic_by_host(
    bytes_by_shard: Sequence[int], shard_hosts: Sequence[str], worker_hosts: Sequence[str]
) -> dict[str, HostTraffic]:
    """Load of each host's link when every worker pushes and pulls once.

    Transfers between a worker and a shard on the same host do not cross its link.

    Args:
        bytes_by_shard: bytes of the parameters that each shard owns; gradients have the same size.
        shard_hosts: the host of each shard.
        worker_hosts: the host of each worker.
    """
    traffic = {}
    for host in dict.fromkeys([*shard_hosts, *worker_hosts]):
        workers_here = worker_hosts.count(host)
        workers_elsewhere = len(worker_hosts) - workers_here
        shards = list(zip(bytes_by_shard, shard_hosts, strict=True))
        bytes_here = sum(owned for owned, place in shards if place == host)
        bytes_elsewhere = sum(owned for owned, place in shards if place != host)
        traffic[host] = HostTraffic(
            push_tx_bytes=workers_here * bytes_elsewhere,
            push_rx_bytes=workers_elsewhere * bytes_here,
            pull_tx_bytes=workers_elsewhere * bytes_here,
            pull_rx_bytes=workers_here * bytes_elsewhere,
        )
    return traffic


def full_duplex_s(traffic: Mapping[str, HostTraffic], bytes_per_s: float) -> float:
    """Least seconds of communication in a step, with both directions of every link in use at once.

    Pulls then overlap pushes, chunk by chunk. For n workers and one dedicated shard of S bytes this is nS/B.
    """
    loads = {host: each.load for host, each in traffic.items()}
    return link_bound_s(loads, dict.fromkeys(loads, MeasuredLink(bytes_per_s)))


def half_duplex_s(traffic: Mapping[str, HostTraffic], bytes_per_s: float) -> float:
    """Least seconds of communication in a step in which pulls start after the last push.

    For n workers and one dedicated shard of S bytes this is 2nS/B.
    """
    push = max(max(host.push_tx_bytes, host.push_rx_bytes) for host in traffic.values())
    pull = max(max(host.pull_tx_bytes, host.pull_rx_bytes) for host in traffic.values())
    return (push + pull) / bytes_per_s


def one_way_s(traffic: Mapping[str, HostTraffic], bytes_per_s: float) -> float:
    """Seconds of communication in a step in which a link carries one direction at a time.

    Unlike in a ring, nothing in the algorithm makes a host send while it receives. For n workers and one
    dedicated shard of S bytes this is 2nS/B, with a shard beside each worker 4(n - 1)S/nB.
    """
    return max(host.load.tx_bytes + host.load.rx_bytes for host in traffic.values()) / bytes_per_s
