"""The views of a cell's bytes held against each other: what can be larger than what, and by how much.

Every rule holds a pair of views together, for every rank or host and over all steps that count. A rule that
does not hold is a warning with both figures and the likely cause: one of the two views is wrong, or something
else used the link.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.traffic import placement_of
from distsqz.theory.all_reduce import UNUSED_FLAG_BYTES, ring_crosses, ring_tx_bytes
from distsqz.theory.placement import Placement
from distsqz.theory.shipping import HEADER_BYTES, SEGMENT_BYTES

TCP_TOLERANCE = 1e-3
"""Share by which TCP may carry more than predicted, for what grows with the payload: Gloo announces every
segment of up to 1 MiB."""

RING_OVERHEAD_BYTES = 1200
"""What Gloo sends besides the payload of one all-reduce, for each rank but one (twice what was seen)."""

EXCHANGE_OVERHEAD_BYTES = 1024
"""What Gloo and the parameter server send besides the payload of one push or pull, headers included."""

EARLY_SHARE = 0.05
"""Share of what a rank receives that a peer may send between two of its steps, where they do not follow."""

FRAME_RATIO = (SEGMENT_BYTES + HEADER_BYTES) / SEGMENT_BYTES
"""Bytes of full Ethernet frames for each byte of TCP payload."""

MOST_FRAME_RATIO = 1.12
"""The same where many frames are not full."""

ACK_RATIO = 2 * HEADER_BYTES / SEGMENT_BYTES
"""Bytes of acknowledgements for each byte received: at most two frames without payload for each full one."""

BACKGROUND_BYTES_PER_S = 250_000.0
"""What Ray's own processes may send and receive while a step is under way."""

BACKGROUND_BYTES = 1 << 20
"""What they may send at once, whatever the time."""

BOUND_TOLERANCE_SHAPED, BOUND_TOLERANCE_MEASURED = 0.02, 0.15
"""Shares by which a time may lie below its bound: of a link that is shaped, whose rate is known, and of one
that was measured for a second before training."""


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A rule that does not hold."""

    cell: str
    views: tuple[str, str]
    """Names of the columns that were compared."""
    values: tuple[float, float]
    """Their figures, a step."""
    cause: str
    rank: int | None = None
    """None where the rule is about a host or the whole cell."""
    host: str | None = None

    def told(self) -> str:
        """One line for people."""
        where = f"rank {self.rank}" if self.rank is not None else self.host
        one, other = (f"{value:,.0f}" if value >= 100 else f"{value:.4g}" for value in self.values)
        return (
            f"{self.cell}{f', {where}' if where else ''}: {self.views[0]} {one} does not go with "
            f"{self.views[1]} {other} a step; likely cause: {self.cause}."
        )


@dataclass(frozen=True, kw_only=True)
class CellViews:
    """What a cell's rules look at."""

    cell: dict[str, Any]
    """Its entry in run.json."""
    steps: pd.DataFrame
    """Its rows of `steps` that count; likewise `transfers` and `peers`."""
    transfers: pd.DataFrame
    peers: pd.DataFrame
    hosts: pd.DataFrame | None
    """What `traffic.by_host` makes of them."""
    comm_s: float | None
    bound_s: float | None


def check(views: CellViews) -> list[Breach]:
    """Every rule that does not hold in a cell; none where nothing was measured."""
    if views.steps.empty:
        return []
    return [
        *_check_handed_over(views),
        *_check_predicted(views),
        *_check_tcp(views),
        *_check_peers(views),
        *_check_hosts(views),
        *_check_bound(views),
    ]


def _check_handed_over(views: CellViews) -> Iterator[Breach]:
    """Every rank hands over the whole payload in every step, unless it is left behind by backup workers."""
    cell, payload_bytes = views.cell, views.cell.get("payload_bytes")
    if payload_bytes is not None and _is_ring(cell) and cell.get("find_unused_parameters"):
        payload_bytes += UNUSED_FLAG_BYTES * cell["tensors"]
    if payload_bytes is None or cell.get("backup_workers") or (cell["world_size"] == 1 and _is_ring(cell)):
        return
    for rank, of_rank in _by_rank(views.steps):
        mean = of_rank["logical_tx_bytes"].mean()
        if pd.notna(mean) and mean != payload_bytes:
            cause = (
                "gradients of some parameters are not sent, or not counted"
                if mean < payload_bytes
                else "gradients are sent more than once a step"
            )
            yield _of_rank(cell, rank, ("logical_tx_bytes", "payload_bytes"), (mean, payload_bytes), cause)


def _check_predicted(views: CellViews) -> Iterator[Breach]:
    """Predicted bytes follow from the payload handed over, by the formula and by who shares a host."""
    placement = placement_of(views.cell)
    if placement is None or views.cell.get("restarted"):  # a worker may have come up on another host
        return
    for rank, of_rank in _by_rank(views.steps):
        transfers = views.transfers[views.transfers["rank"] == rank]
        for way in ("tx", "rx"):
            expected = _expected(views.cell, placement, rank, of_rank, transfers, way)
            names = (f"predicted_{way}_bytes", f"predicted_local_{way}_bytes")
            for name, value in zip(names, expected or (), strict=False):
                predicted = _sum(of_rank[name])
                rounding_bytes = max(len(of_rank), len(transfers))
                if predicted is not None and abs(predicted - value) > rounding_bytes:
                    yield _of_rank(
                        views.cell,
                        rank,
                        (name, f"logical_{way}_bytes"),
                        (predicted / len(of_rank), of_rank[f"logical_{way}_bytes"].mean()),
                        f"the formula gives {value / len(of_rank):,.0f} for what was handed over; "
                        "another number of ranks, or other hosts, were used",
                    )


def _expected(
    cell: dict[str, Any],
    placement: Placement,
    rank: int,
    steps: pd.DataFrame,
    transfers: pd.DataFrame,
    way: str,
) -> tuple[float, float] | None:
    """What must cross the network and what must stay on the host, by theory; None where that is unknown."""
    logical = _sum(steps[f"logical_{way}_bytes"])
    if logical is None:
        return None
    if _is_ring(cell):
        crosses = ring_crosses(rank, placement)[0 if way == "tx" else 1]
        total = ring_tx_bytes(int(logical), cell["world_size"])
        return (total, 0.0) if crosses else (0.0, total)
    own = transfers[transfers["op"] == ("push" if way == "tx" else "pull")]
    if not placement.shards or own["payload_bytes"].sum() != logical:
        return None
    local = {f"shard {index}" for index in placement.local_shards(rank)}
    stays = own["peer"].isin(local)
    return float(own["payload_bytes"][~stays].sum()), float(own["payload_bytes"][stays].sum())


def _check_tcp(views: CellViews) -> Iterator[Breach]:
    """TCP carries what is predicted and little besides: headers, and announcements of what comes."""
    cell = views.cell
    for rank, of_rank in _by_rank(views.steps):
        transfers = int((views.transfers["rank"] == rank).sum())
        overhead_bytes = transfers * (
            RING_OVERHEAD_BYTES * (cell["world_size"] - 1) if _is_ring(cell) else EXCHANGE_OVERHEAD_BYTES
        )
        for way in ("tx", "rx"):
            for place in ("", "local_"):
                tcp_name, predicted_name = f"tcp_{place}{way}_bytes", f"predicted_{place}{way}_bytes"
                tcp, predicted = _sum(of_rank[tcp_name]), _sum(of_rank[predicted_name])
                if tcp is None or predicted is None:
                    continue
                missing_bytes = transfers + (EARLY_SHARE * predicted if way == "rx" else 0.0)
                most = predicted * (1 + TCP_TOLERANCE) + overhead_bytes
                if not predicted - missing_bytes <= tcp <= most:
                    values = (tcp / len(of_rank), predicted / len(of_rank))
                    cause = _tcp_cause(views, of_rank, tcp, predicted, place, way)
                    yield _of_rank(cell, rank, (tcp_name, predicted_name), values, cause)


def _tcp_cause(
    views: CellViews, of_rank: pd.DataFrame, tcp: float, predicted: float, place: str, way: str
) -> str:
    elsewhere = float(of_rank[f"predicted_{'' if place else 'local_'}{way}_bytes"].sum())
    shards = len(views.cell.get("server_hosts") or ())
    if tcp < predicted:
        if shards > 1 and _close(predicted - tcp, predicted / shards, 0.5):
            return "the connection to a shard is not counted"
        return "some connections or steps are not counted"
    if elsewhere and _close(tcp, predicted + elsewhere, 0.02):
        counted, apart = (
            ("stays on the host", "crosses the network")
            if not place
            else ("crosses the network", "stays on the host")
        )
        return f"what {counted} is counted among what {apart}"
    if predicted and _close(tcp, 2 * predicted, 0.02):
        return "a counter is added up twice"
    repeated = (
        of_rank["queue_dropped_packets"].fillna(0).sum() or of_rank["tcp_retrans_bytes"].fillna(0).sum()
    )
    if repeated:
        return "what TCP repeated is counted as payload"
    return "something else was sent on the same connections, or other ranks' bytes were counted"


def _check_peers(views: CellViews) -> Iterator[Breach]:
    """A step's TCP bytes are the sum of those to each peer."""
    if views.peers.empty or views.peers["same_host"].isna().any():
        return
    sums = views.peers.groupby(["rank", "same_host"])[["tx_bytes", "rx_bytes"]].sum()
    for rank, of_rank in _by_rank(views.steps):
        for same_host, place in ((False, ""), (True, "local_")):
            for way in ("tx", "rx"):
                name = f"tcp_{place}{way}_bytes"
                tcp = _sum(of_rank[name])
                key = (rank, same_host)
                of_peers = float(sums[f"{way}_bytes"].get(key, 0))
                if tcp is not None and tcp != of_peers:
                    yield _of_rank(
                        views.cell,
                        rank,
                        (name, f"{way}_bytes of its peers"),
                        (tcp / len(of_rank), of_peers / len(of_rank)),
                        "figures of another rank, or of other steps, stand in one of the two",
                    )


def _check_hosts(views: CellViews) -> Iterator[Breach]:
    """Interface and wire carry what TCP sent, with headers, acknowledgements and little of anyone else's."""
    if views.hosts is None:
        return
    interface = views.cell.get("interface")
    steps = views.steps["step"].nunique()
    for host, row in views.hosts.iterrows():
        other_bytes = BACKGROUND_BYTES + BACKGROUND_BYTES_PER_S * row["wall_s"]
        for way, back in (("tx", "rx"), ("rx", "tx")):
            tcp = row[f"tcp_{way}_bytes"]
            most = tcp * MOST_FRAME_RATIO + row[f"tcp_{back}_bytes"] * ACK_RATIO + other_bytes
            for name, least in (
                (f"nic_{way}_bytes", tcp * (1 - TCP_TOLERANCE)),
                (f"wire_{way}_bytes", tcp * FRAME_RATIO * (1 - TCP_TOLERANCE)),
            ):
                value = row[name]
                if pd.isna(value) or pd.isna(tcp):
                    continue
                # Anyone's traffic passes loopback; there is no telling whether it is too much.
                too_much = value > most and interface != "lo"
                if value < least or too_much:
                    cause = (
                        "other programs used the link, or TCP had to repeat much"
                        if too_much
                        else "another interface carried the bytes, or TCP's count holds more than was sent"
                    )
                    yield Breach(
                        cell=views.cell["cell"],
                        host=str(host),
                        views=(name, f"tcp_{way}_bytes"),
                        values=(value / steps, tcp / steps),
                        cause=cause,
                    )
            nic, wire = row[f"nic_{way}_bytes"], row[f"wire_{way}_bytes"]
            if (
                pd.notna(nic)
                and pd.notna(wire)
                and not nic * (1 - TCP_TOLERANCE)
                <= wire
                <= (nic * MOST_FRAME_RATIO + row[f"tcp_{back}_bytes"] * ACK_RATIO + BACKGROUND_BYTES)
            ):
                yield Breach(
                    cell=views.cell["cell"],
                    host=str(host),
                    views=(f"wire_{way}_bytes", f"nic_{way}_bytes"),
                    values=(wire / steps, nic / steps),
                    cause="one of the two counters is another host's",
                )


def _check_bound(views: CellViews) -> Iterator[Breach]:
    """Transfers take at least as long as the links need for their bytes."""
    if views.comm_s is None or not views.bound_s:
        return
    shaped = bool(views.cell.get("emulated_rate_bits_per_s"))
    tolerance = BOUND_TOLERANCE_SHAPED if shaped else BOUND_TOLERANCE_MEASURED
    if views.comm_s < views.bound_s * (1 - tolerance):
        yield Breach(
            cell=views.cell["cell"],
            views=("comm_s", "bound_s"),
            values=(views.comm_s, views.bound_s),
            cause="a link has another rate than was set, or bytes took another way",
        )


def _is_ring(cell: dict[str, Any]) -> bool:
    return bool(cell["strategy"] == "ddp")


def _by_rank(steps: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for rank in sorted(steps["rank"].unique()):
        yield int(rank), steps[steps["rank"] == rank]


def _of_rank(
    cell: dict[str, Any], rank: int, views: tuple[str, str], values: tuple[float, float], cause: str
) -> Breach:
    return Breach(cell=cell["cell"], rank=rank, views=views, values=values, cause=cause)


def _sum(figures: pd.Series[float]) -> float | None:
    """The sum of all figures; None where one is unknown."""
    return None if figures.isna().any() else float(figures.sum())


def _close(value: float, other: float, tolerance: float) -> bool:
    return abs(value - other) <= tolerance * abs(other)
