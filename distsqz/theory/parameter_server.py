"""The cost of a parameter server: workers push gradients to shards, shards push parameters back.

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
    """What one host's link carries in one step, in bytes of payload each way."""

    push_tx_bytes: int
    """Gradients of its workers, to shards elsewhere."""
    push_rx_bytes: int
    """Gradients of workers elsewhere, to its shards."""
    pull_tx_bytes: int
    """Parameters of its shards, to workers elsewhere."""
    pull_rx_bytes: int
    """Parameters of shards elsewhere, to its workers."""

    @property
    def load(self) -> LinkLoad:
        """All that it sends and receives."""
        return LinkLoad(self.push_tx_bytes + self.pull_tx_bytes, self.push_rx_bytes + self.pull_rx_bytes)


def traffic_by_host(
    bytes_by_shard: Sequence[int], shard_hosts: Sequence[str], worker_hosts: Sequence[str]
) -> dict[str, HostTraffic]:
    """What each host's link carries when every worker pushes and pulls once.

    What stays on a host does not cross its link: a worker reaches a shard beside it for nothing.

    Args:
        bytes_by_shard: parameters that each shard owns, in bytes; gradients are as many.
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
    """Seconds of a step's communication at best: both directions of every link busy at once.

    Pulls then overlap pushes, chunk by chunk. For n workers and one dedicated shard of S bytes this is nS/B.
    """
    loads = {host: each.load for host, each in traffic.items()}
    return link_bound_s(loads, dict.fromkeys(loads, MeasuredLink(bytes_per_s)))


def half_duplex_s(traffic: Mapping[str, HostTraffic], bytes_per_s: float) -> float:
    """Seconds of a step's communication where pulls wait until every push is in.

    For n workers and one dedicated shard of S bytes this is 2nS/B.
    """
    push = max(max(host.push_tx_bytes, host.push_rx_bytes) for host in traffic.values())
    pull = max(max(host.pull_tx_bytes, host.pull_rx_bytes) for host in traffic.values())
    return (push + pull) / bytes_per_s
