"""Lower bound of a step's communication time, from the load and the rate of every link that is used."""

from __future__ import annotations

from typing import Any

import pandas as pd

from distsqz.report.traffic import placement_of
from distsqz.theory.all_reduce import ring_load_by_host
from distsqz.theory.links import Link, MeasuredLink, ShapedLink, link_bound_s
from distsqz.theory.parameter_server import traffic_by_host
from distsqz.theory.placement import LinkLoad


def bound_s(cell: dict[str, Any], links: pd.DataFrame) -> float | None:
    """Seconds that a step's communication must take at least, both directions of every link busy at once.

    An emulated link has the rate that it is shaped to and the first bytes of its bucket; another one has the
    goodput that was measured on the paths from and to its host.

    Args:
        cell: its entry in run.json.
        links: the run's rows of `links`.

    Returns:
        None where no link is used, or the links or the payload are not known.
    """
    loads = load_by_host(cell)
    if loads is None or not any(load.tx_bytes or load.rx_bytes for load in loads.values()):
        return None
    rates = cell.get("emulated_rate_bits_per_s") or {}
    goodputs = _goodput_by_host(links)
    used: dict[str, Link] = {}
    for host in loads:
        if host in rates:
            used[host] = ShapedLink(rates[host] / 8)
        elif goodputs:
            # A host without workers was not measured: no faster link is known than the fastest.
            used[host] = MeasuredLink(goodputs.get(host, max(goodputs.values())))
        else:
            return None
    return link_bound_s(loads, used)


def load_by_host(cell: dict[str, Any]) -> dict[str, LinkLoad] | None:
    """Payload that each host's link carries in a step; None if the cell's entry does not determine it.

    Where all processes are on one host no link is used, and every load is 0.
    """
    payload_bytes, placement = cell.get("payload_bytes"), placement_of(cell)
    if payload_bytes is None or placement is None:
        return None
    if not placement.spans_hosts:
        return dict.fromkeys(placement.workers, LinkLoad())
    if cell["strategy"] == "ddp":
        return ring_load_by_host(payload_bytes, placement)
    if not placement.shards:
        return None
    shares = [payload_bytes // len(placement.shards)] * len(placement.shards)
    traffic = traffic_by_host(shares, placement.shards, placement.workers)
    return {host: each.load for host, each in traffic.items()}


def busiest_host_bytes(cell: dict[str, Any]) -> int | None:
    """Payload that the busiest host's link must carry in its busier direction in a step.

    Returns:
        None where no link is used, or the cell's entry does not determine it.
    """
    loads = load_by_host(cell) or {}
    return max((max(load.tx_bytes, load.rx_bytes) for load in loads.values()), default=0) or None


def _goodput_by_host(links: pd.DataFrame) -> dict[str, float]:
    """The faster of the paths from a host and to it, in bytes a second: its link is at least as fast."""
    ends = pd.concat([links.set_index("host"), links.set_index("peer_host")])["goodput_bytes_per_s"]
    return {str(host): float(goodput) for host, goodput in ends.groupby(level=0).max().items()}
