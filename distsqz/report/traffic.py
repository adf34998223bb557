"""Bytes on each host's link in a cell, as counted by TCP, by the interface and on the wire.

Interface and wire count everything on the host, and every rank on it reads the same counters. What TCP sent
is therefore summed over the host's processes, shards of a parameter server included, before it is held
against them.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from distsqz.theory.placement import Placement

HOST_VIEWS = ["nic_tx_bytes", "nic_rx_bytes", "wire_tx_bytes", "wire_rx_bytes"]
"""Columns of `steps` that count for the whole host."""


def placement_of(cell: dict[str, Any]) -> Placement | None:
    """Placement of a cell's ranks and shards; None if its run did not record it."""
    if not cell.get("hosts") or len(cell["hosts"]) != cell["world_size"]:
        return None
    placement = Placement(
        workers=cell["hosts"], shards=cell.get("server_hosts") or (), spans_hosts=cell.get("spans_hosts")
    )
    if "spans_hosts" not in cell and not placement.spans_hosts and cell.get("interface") not in (None, "lo"):
        return None  # an older distsqz gave hosts of the same name one label
    return placement


def by_host(cell: dict[str, Any], steps: pd.DataFrame, peers: pd.DataFrame) -> pd.DataFrame | None:
    """Sums over the steps that count, a row for each host with ranks.

    Args:
        cell: its entry in run.json.
        steps: its rows of `steps` that count.
        peers: its rows of `peers` for the same steps.

    Returns:
        `tcp_tx_bytes` and `tcp_rx_bytes` of all processes on the host, `nic_...` and `wire_...` as the host
        counted them, and `wall_s`. None where the run does not tell who was where, or who shared a host.
    """
    placement = placement_of(cell)
    if placement is None or steps.empty or cell.get("restarted"):  # peers of a step stand for every attempt
        return None
    if steps["tcp_local_tx_bytes"].isna().any() and _any_local(placement):
        return None  # TCP's count of an older distsqz holds what stays on the host, too
    by_rank = steps.groupby("rank")[["tcp_tx_bytes", "tcp_rx_bytes", *HOST_VIEWS, "wall_s"]].sum(min_count=1)
    hosts = pd.Series([placement.workers[rank] for rank in by_rank.index], index=by_rank.index, name="host")
    tcp = by_rank[["tcp_tx_bytes", "tcp_rx_bytes"]].groupby(hosts).sum(min_count=1)
    if not placement.spans_hosts:
        # Loopback counts what a process sends as received, too; a shard sends what a worker receives.
        sent = tcp.sum(axis=1, min_count=2) if placement.shards else tcp["tcp_tx_bytes"]
        tcp = pd.DataFrame({"tcp_tx_bytes": sent, "tcp_rx_bytes": sent})
        by_rank[["wire_tx_bytes", "wire_rx_bytes"]] = float("nan")
    elif placement.shards:
        of_shards = _of_shards(placement, peers)
        if of_shards is None:
            return None
        tcp = tcp.add(of_shards.reindex(tcp.index, fill_value=0))
    # Ranks on a host read the same counters, each at the ends of its own steps: the longest look counts.
    host_views = by_rank[[*HOST_VIEWS, "wall_s"]].groupby(hosts).max()
    return tcp.join(host_views)


def in_flight_s(transfers: pd.DataFrame) -> pd.Series[float]:
    """By step and rank: seconds in which at least one transfer was in flight, overlaps counted once."""
    ordered = transfers.sort_values(["step", "rank", "t_launch_ns"])
    keys = [ordered["step"], ordered["rank"]]
    done_so_far = ordered["t_done_ns"].groupby(keys).cummax()
    done_before = done_so_far.groupby(keys).shift(fill_value=0)
    begin = ordered["t_launch_ns"].clip(lower=done_before)
    return (ordered["t_done_ns"] - begin).clip(lower=0).groupby(keys).sum() / 1e9


def _any_local(placement: Placement) -> bool:
    """Whether some rank shares a host with another process of its session."""
    ranks = range(len(placement.workers))
    return any(placement.local_ranks(rank) or placement.local_shards(rank) for rank in ranks)


def _of_shards(placement: Placement, peers: pd.DataFrame) -> pd.DataFrame | None:
    """Bytes that the shards on each host sent to and received from workers on other hosts."""
    of_shards = peers[peers["peer_rank"].isna()]
    if of_shards.empty or of_shards["same_host"].isna().any():
        return None
    crossing = of_shards[~of_shards["same_host"].astype(bool)]
    host = crossing["peer"].str.removeprefix("shard ").astype(int).map(dict(enumerate(placement.shards)))
    # A shard sends what a worker receives.
    swapped = crossing[["rx_bytes", "tx_bytes"]].set_axis(["tcp_tx_bytes", "tcp_rx_bytes"], axis=1)
    return swapped.groupby(host).sum()
