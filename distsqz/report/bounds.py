"""Lower bound of a step's communication time, from the load and the rate of every link that is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from distsqz.report.traffic import placement_of
from distsqz.strategies.registry import strategy_of
from distsqz.strategies.strategy import Sent
from distsqz.theory.links import Link, MeasuredLink, ShapedLink, link_bound_s
from distsqz.theory.placement import LinkLoad


def bound_s(cell: dict[str, Any], loads: Mapping[str, LinkLoad] | None, links: pd.DataFrame) -> float | None:
    """Seconds that a step's communication must take at least, both directions of every link busy at once.

    An emulated link has the rate that it is shaped to and the first bytes of its bucket; another one has the
    goodput that was measured on the paths from and to its host.

    Args:
        cell: its entry in run.json.
        loads: what its links carry in a step, as `load_by_host` gives it.
        links: the run's rows of `links`.

    Returns:
        None where no link is used, or the links or the loads are not known.
    """
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


def load_by_host(cell: dict[str, Any], transfers: pd.DataFrame | None = None) -> dict[str, LinkLoad] | None:
    """Payload that each host's link carries in a step, by the strategy's formula.

    Args:
        cell: its entry in run.json.
        transfers: its rows of `transfers` for steps that count. Without any, what is planned to be sent
            counts.

    Returns:
        None where it is not known. Where all processes are on one host no link is used, and every load is 0.
    """
    placement = placement_of(cell)
    if placement is None:
        return None
    if not placement.spans_hosts:
        return dict.fromkeys(placement.workers, LinkLoad())
    strategy = strategy_of(cell)
    if strategy.has_servers and not placement.shards:
        return None
    if transfers is not None and len(transfers):
        return strategy.load_by_host(sent_by_rank(transfers), placement)
    payload_bytes = cell.get("sent_payload_bytes") or cell.get("payload_bytes")
    return None if payload_bytes is None else strategy.planned_load_by_host(payload_bytes, placement)


def sent_by_rank(transfers: pd.DataFrame) -> dict[int, list[tuple[Sent, float]]]:
    """The transfers of each rank, with how often they occurred on average in a step that had some."""
    steps_of = transfers.groupby("rank")["step"].nunique()
    found: dict[int, list[tuple[Sent, float]]] = {}
    for (rank, op, peer, payload_bytes), times in transfer_counts(transfers).items():
        found.setdefault(rank, []).append((Sent(op, payload_bytes, peer), times / int(steps_of[rank])))
    return found


def transfer_counts(transfers: pd.DataFrame) -> dict[tuple[int, str, str | None, int], int]:
    """Number of transfers by rank, operation, peer (None for collectives) and payload in bytes."""
    keys = ["rank", "op", "peer", "payload_bytes"]
    counts = transfers.groupby(keys, dropna=False).size().reset_index(name="times")
    return {
        (int(rank), str(op), None if pd.isna(peer) else str(peer), int(payload_bytes)): int(times)
        for rank, op, peer, payload_bytes, times in counts.itertuples(index=False)
    }


def busiest_host_bytes(loads: Mapping[str, LinkLoad] | None) -> int | None:
    """Payload that the busiest host's link must carry in its busier direction in a step.

    Returns:
        None where no link is used, or the loads are not known.
    """
    every = (loads or {}).values()
    return max((max(load.tx_bytes, load.rx_bytes) for load in every), default=0) or None


def _goodput_by_host(links: pd.DataFrame) -> dict[str, float]:
    """The faster of the paths from a host and to it, in bytes a second: its link is at least as fast."""
    ends = pd.concat([links.set_index("host"), links.set_index("peer_host")])["goodput_bytes_per_s"]
    return {str(host): float(goodput) for host, goodput in ends.groupby(level=0).max().items()}
