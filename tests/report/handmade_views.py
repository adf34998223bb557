"""Views of a cell's bytes as a clean run records them, made message by message.

What Gloo and the frames add was read off runs of two emulated hosts at 1 Gbit/s and of processes on loopback.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from handmade_runs import START_NS, cell, step

from distsqz.report.checks import Breach, CellViews, check
from distsqz.report.traffic import by_host
from distsqz.strategies.parameter_server.layout import chunk_bytes_for, plan_layout

HEADER, ANNOUNCEMENT, READY = 48, 48, 48
"""Bytes of Gloo before a message, of its announcement, and of the answer that there is room for it."""
PUSH_HEADER, PULL_HEADER = 72, 108
"""Bytes of the parameter server's own in a push and in its answer."""
SEGMENT_BYTES = 1 << 20
"""The largest message of Gloo's ring."""
NIC_RATIO, WIRE_RATIO = 1.0026, 1.0473
"""Bytes of interface and wire for each byte of TCP payload, where both directions are busy."""

Messages = Counter[tuple[Any, Any]]
"""Bytes by sender and receiver: ranks, or names of shards."""


def ring_messages(bucket_bytes: int, world_size: int) -> Messages:
    """One all-reduce as Gloo sends it: every rank to the one below it, in segments."""
    sent: Messages = Counter()
    per_rank = -(-max(-(-bucket_bytes // SEGMENT_BYTES), 2 * world_size) // world_size)
    number = 2 * (world_size - 1) * per_rank
    cuts = [bucket_bytes * part // world_size for part in range(world_size + 1)]
    parts = [end - start for start, end in itertools.pairwise(cuts)]
    for rank in range(world_size):
        if world_size > 1:
            to = (rank - 1) % world_size
            payload_bytes = 2 * bucket_bytes - parts[(rank - 1) % world_size] - parts[(rank - 2) % world_size]
            sent[rank, to] += payload_bytes + number * (HEADER + ANNOUNCEMENT)
            sent[to, rank] += number * READY
    return sent


def _transfer(rank: int, step: int, op: str, bucket: int, size: int, peer: str | None) -> dict[str, Any]:
    start_ns = START_NS + step * 10**9
    return {
        "rank": rank, "step": step, "op": op, "bucket": bucket, "peer": peer, "payload_bytes": size,
        "t_launch_ns": start_ns + 4 * 10**8, "t_done_ns": start_ns + 9 * 10**8,
    }  # fmt: skip


def ddp_cell(payload_bytes: int, hosts: Sequence[str], **entries: Any) -> dict[str, Any]:
    """The entry of a cell under all-reduce."""
    return _cell(payload_bytes, hosts, hosts, strategy="ddp", cell=f"m-ddp-w{len(hosts)}", **entries)


def ps_cell(
    payload_bytes: int, hosts: Sequence[str], shards: Sequence[str], **entries: Any
) -> dict[str, Any]:
    """The entry of a cell under a parameter server."""
    of_servers = {"servers": len(shards), "server_hosts": list(shards), "consistency": "sync"}
    named = {"strategy": "ps", "cell": f"m-ps-w{len(hosts)}"}
    return _cell(payload_bytes, hosts, [*hosts, *shards], **named, **of_servers | entries)


def _cell(
    payload_bytes: int, hosts: Sequence[str], all_hosts: Sequence[str], **entries: Any
) -> dict[str, Any]:
    spans_hosts = len(set(all_hosts)) > 1
    where = {
        "hosts": list(hosts),
        "world_size": len(hosts),
        "payload_bytes": payload_bytes,
        "spans_hosts": spans_hosts,
        "interface": "eth0" if spans_hosts else "lo",
        "warmup_steps": 0,
    }
    return cell(**where | entries)


def clean_views(of: dict[str, Any], bucket_bytes: int = 25 << 20, wall_s: float = 1.0) -> CellViews:
    """All views of a cell whose every step is like every other, on emulated hosts or on one host.

    Args:
        of: its entry, of `ddp_cell` or `ps_cell`.
        bucket_bytes: size of all-reduced buckets.
        wall_s: time of a step.
    """
    sizes = list(_bucket_sizes(of, bucket_bytes))
    transfers, sent = _ddp_step(of, sizes) if of["strategy"] == "ddp" else _ps_step(of)
    number = range(of["steps"])
    by_rank = [_columns(of, transfers, sent, rank) for rank in range(of["world_size"])]
    steps = [
        step(of, rank, index, wall_s, **columns).values()
        for index in number
        for rank, columns in enumerate(by_rank)
    ]
    return checked(
        CellViews(
            cell=of,
            steps=pd.DataFrame(steps),
            transfers=pd.DataFrame(
                [_transfer(rank, index, *rest) for index in number for rank, *rest in transfers],
                columns=["rank", "step", "op", "bucket", "peer", "payload_bytes", "t_launch_ns", "t_done_ns"],
            ),
            peers=pd.DataFrame(
                [{"step": index, **row} for index in number for row in _peers(of, sent)],
                columns=["step", "rank", "peer", "peer_rank", "same_host", "tx_bytes", "rx_bytes"],
            ),
            hosts=None,
            longest_comm_s=0.5,
            bound_s=0.4,
        )
    )


def checked(views: CellViews) -> CellViews:
    """The views with the sums by host that belong to them."""
    return replace(views, hosts=by_host(views.cell, views.steps, views.peers))


def breaches(views: CellViews) -> list[Breach]:
    """What the rules find, once hosts are summed anew."""
    return check(checked(views))


def _bucket_sizes(of: dict[str, Any], bucket_bytes: int) -> list[int]:
    whole, rest = divmod(of["payload_bytes"], bucket_bytes)
    return [bucket_bytes] * whole + [rest] * (rest > 0)


def _ddp_step(of: dict[str, Any], sizes: Sequence[int]) -> tuple[list[tuple[Any, ...]], Messages]:
    sent: Messages = Counter()
    for size in sizes:
        sent += ring_messages(size, of["world_size"])
    ranks = range(of["world_size"])
    return [
        (rank, "all_reduce", index, size, None) for rank in ranks for index, size in enumerate(sizes)
    ], sent


def _ps_step(of: dict[str, Any]) -> tuple[list[tuple[Any, ...]], Messages]:
    shards = len(of["server_hosts"])
    elements = of["payload_bytes"] // 4
    layout = plan_layout([elements], shards, chunk_bytes=chunk_bytes_for(of["world_size"]))
    transfers: list[tuple[Any, ...]] = []
    sent: Messages = Counter()
    for rank in range(of["world_size"]):
        for chunk in range(layout.chunks):
            size, shard = 4 * layout.chunk_size(chunk), f"shard {layout.shard_of(chunk)}"
            transfers += [(rank, op, chunk, size, shard) for op in ("push", "pull")]
            for ends, own_header in (((rank, shard), PUSH_HEADER), ((shard, rank), PULL_HEADER)):
                sent[ends] += 4 * layout.chunk_elements + own_header + HEADER + ANNOUNCEMENT
                sent[ends[::-1]] += READY
    return transfers, sent


def _host_of(of: dict[str, Any], process: Any) -> str:
    if isinstance(process, int):
        return str(of["hosts"][process])
    return str(of["server_hosts"][int(process.removeprefix("shard "))])


def _crosses(of: dict[str, Any], one: Any, other: Any) -> bool:
    return not of["spans_hosts"] or _host_of(of, one) != _host_of(of, other)


def _peers(of: dict[str, Any], sent: Messages) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "peer": peer if isinstance(peer, str) else _host_of(of, peer),
            "peer_rank": peer if isinstance(peer, int) else None,
            "same_host": not _crosses(of, rank, peer),
            "tx_bytes": sent[rank, peer],
            "rx_bytes": sent[peer, rank],
        }
        for rank, peer in sorted(sent, key=str)
        if isinstance(rank, int)
    ]


def _columns(
    of: dict[str, Any], transfers: Sequence[tuple[Any, ...]], sent: Messages, rank: int
) -> dict[str, int | None]:
    """A rank's step: what its transfers predict, what its messages were, what its host carried."""
    n, ring = of["world_size"], of["strategy"] == "ddp"
    columns: Counter[str] = Counter()
    for owner, op, _, size, shard in transfers:
        if owner == rank:
            to_shard = ("tx" if op == "push" else "rx", shard)
            for way, peer in (("tx", (rank - 1) % n), ("rx", (rank + 1) % n)) if ring else (to_shard,):
                place = "" if _crosses(of, rank, peer) else "local_"
                columns[f"logical_{way}_bytes"] += size
                columns[f"predicted_{place}{way}_bytes"] += round(2 * (n - 1) * size / n) if ring else size
    for row in _peers(of, sent):
        if row["rank"] == rank:
            place = "local_" if row["same_host"] else ""
            for way in ("tx", "rx"):
                columns[f"tcp_{place}{way}_bytes"] += row[f"{way}_bytes"]
    names = [f"{view}_{way}_bytes" for view in ("logical", "predicted", "tcp") for way in ("tx", "rx")]
    names += [f"{view}_local_{way}_bytes" for view in ("predicted", "tcp") for way in ("tx", "rx")]
    return {name: columns[name] for name in names} | host_views(of, sent, _host_of(of, rank))


def host_views(of: dict[str, Any], sent: Messages, host: str) -> dict[str, int | None]:
    """What interface and wire of a host carry in a step."""
    if not of["spans_hosts"]:
        nic = round(sum(sent.values()) * NIC_RATIO)
        return {"nic_tx_bytes": nic, "nic_rx_bytes": nic}
    crossing = {ends: size for ends, size in sent.items() if _crosses(of, *ends)}
    tx = sum(size for (origin, _), size in crossing.items() if _host_of(of, origin) == host)
    rx = sum(size for (_, to), size in crossing.items() if _host_of(of, to) == host)
    ratios = {"nic": NIC_RATIO, "wire": WIRE_RATIO}
    return {
        f"{view}_{way}_bytes": round(size * ratio)
        for view, ratio in ratios.items()
        for way, size in (("tx", tx), ("rx", rx))
    }
