"""Rules that compare the views of a cell's bytes: which may exceed which, and by how much.

Every rule holds a pair of views together, for every rank or host and over all steps that count. A rule that
does not hold is a warning with both figures and the likely cause: one of the two views is wrong, or something
else used the link.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from distsqz.report.bounds import transfer_counts
from distsqz.report.measured import makes_steps_together
from distsqz.report.traffic import placement_of
from distsqz.strategies.registry import strategy_of
from distsqz.strategies.strategy import Sent
from distsqz.theory.exchange import crossing
from distsqz.theory.placement import Placement
from distsqz.theory.shipping import HEADER_BYTES, SEGMENT_BYTES

TCP_TOLERANCE = 1e-3
"""Share of all that a rank sends and receives by which TCP may carry more than predicted. Gloo announces
every segment of up to 1 MiB, in both directions, and so also where no payload goes."""

UNSEEN_SHARE = 0.05
"""Share of what TCP counts that interface and wire may lack: a worker on another host may push before this
host's counters are read as a block begins."""

FRAME_RATIO = (SEGMENT_BYTES + HEADER_BYTES) / SEGMENT_BYTES
"""Bytes of full Ethernet frames for each byte of TCP payload."""

MOST_FRAME_RATIO = 1.12
"""The same if many frames are not full."""

ACK_RATIO = 2 * HEADER_BYTES / SEGMENT_BYTES
"""Bytes of acknowledgements for each byte received: at most two frames without payload for each full one."""

BACKGROUND_BYTES_PER_S = 250_000.0
"""Bytes per second that Ray's own processes may send and receive during a step."""

BACKGROUND_BYTES = 1 << 20
"""Bytes that they may send at once, in addition."""

BOUND_TOLERANCE_SHAPED, BOUND_TOLERANCE_MEASURED = 0.02, 0.15
"""Shares by which a time may lie below its bound: of a link that is shaped, whose rate is known, and of one
that was measured for a second before training."""


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A rule that is broken."""

    cell: str
    views: tuple[str, str]
    """Names of the columns that were compared."""
    values: tuple[float, float]
    """Mean values of the columns for a step."""
    cause: str
    rank: int | None = None
    """Rank that the rule is about; None if it is about a host or the whole cell."""
    host: str | None = None

    @property
    def place(self) -> str | None:
        """Rank or host that the rule is about, in words."""
        return self.host if self.rank is None else f"rank {self.rank}"

    @property
    def gap_share(self) -> float:
        """Difference of the two values as a share of the larger one."""
        return abs(self.values[0] - self.values[1]) / max(*map(abs, self.values), 1e-9)

    def sentence(self, others: int = 0) -> str:
        """The warning in one line.

        Args:
            others: number of further ranks or hosts of the cell where the same rule is broken for the same
                reason, by no more.
        """
        where = f", {self.place}" if self.place else ""
        if others:
            kind = "host" if self.rank is None else "rank"
            where += f" and {others} other {kind}{'s' if others > 1 else ''}"
        one, other = (f"{value:,.0f}" if value >= 100 else f"{value:.4g}" for value in self.values)
        return (
            f"{self.cell}{where}: {self.views[0]} {one} does not agree with {self.views[1]} {other} a step; "
            f"likely cause: {self.cause}."
        )


@dataclass(frozen=True, kw_only=True)
class CellViews:
    """Data of a cell that the rules compare."""

    cell: dict[str, Any]
    """Its entry in run.json."""
    steps: pd.DataFrame
    """Its rows of `steps` that count; likewise `transfers` and `peers`."""
    transfers: pd.DataFrame
    peers: pd.DataFrame
    hosts: pd.DataFrame | None
    """Traffic by host, from `traffic.by_host`."""
    longest_comm_s: float | None
    """Seconds for which a step's transfers were in flight on the first rank that launched them."""
    bound_s: float | None


def check(views: CellViews) -> list[Breach]:
    """Every rule that is broken in a cell; none if nothing was measured."""
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
    """Every rank hands over the same payload in every step, where it follows from the cell's entry."""
    cell, strategy = views.cell, strategy_of(views.cell)
    handed_over_bytes = strategy.handed_over_bytes(cell)
    if handed_over_bytes is None:
        return
    for rank, of_rank in _by_rank(views.steps):
        mean = of_rank["logical_tx_bytes"].mean()
        if pd.notna(mean) and mean != handed_over_bytes:
            cause = (
                "gradients of some parameters are not sent, or not counted"
                if mean < handed_over_bytes
                else "gradients are sent more than once a step"
            )
            views_compared = ("logical_tx_bytes", "payload_bytes")
            yield _of_rank(cell, rank, views_compared, (mean, handed_over_bytes), cause)


def _check_predicted(views: CellViews) -> Iterator[Breach]:
    """Predicted bytes follow from the payload handed over, by the formula and by who shares a host."""
    placement = placement_of(views.cell)
    if placement is None or _restarted(views):  # a worker may have come up on another host
        return
    if views.steps["predicted_local_tx_bytes"].isna().any():
        return  # an older distsqz did not tell apart what stays on a host
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
    """Bytes that must cross the network, and bytes that must stay on the host, by theory; None if unknown."""
    logical, strategy = _sum(steps[f"logical_{way}_bytes"]), strategy_of(cell)
    if logical is None or (strategy.has_servers and not placement.shards):
        return None
    handed_over, crosses, stays = 0, 0.0, 0.0
    for (_, op, peer, payload_bytes), times in transfer_counts(transfers).items():
        sent = Sent(op, payload_bytes, peer)
        out, back = strategy.logical_bytes(sent)
        handed_over += times * (out if way == "tx" else back)
        of_one = crossing(strategy.exchanges(sent, rank, placement), rank, placement)
        crosses += times * (of_one.tx_bytes if way == "tx" else of_one.rx_bytes)
        stays += times * (of_one.local_tx_bytes if way == "tx" else of_one.local_rx_bytes)
    return (crosses, stays) if handed_over == logical else None


@dataclass(frozen=True, slots=True)
class _Range:
    """Range of values that a count may have."""

    least: float
    most: float

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most


def _check_tcp(views: CellViews) -> Iterator[Breach]:
    """TCP carries what is predicted and little besides: headers, and announcements of what comes."""
    for rank, of_rank in _by_rank(views.steps):
        transfers = views.transfers[views.transfers["rank"] == rank]
        for way in ("tx", "rx"):
            for place in ("", "local_"):
                tcp_name, predicted_name = f"tcp_{place}{way}_bytes", f"predicted_{place}{way}_bytes"
                tcp, predicted = _sum(of_rank[tcp_name]), _sum(of_rank[predicted_name])
                if tcp is None or predicted is None:
                    continue
                allowed = _allowed_tcp(views.cell, of_rank, len(transfers), predicted)
                if tcp not in allowed:
                    values = (tcp / len(of_rank), predicted / len(of_rank))
                    peers = views.peers[views.peers["rank"] == rank]
                    cause = _tcp_cause(of_rank, transfers, peers, tcp, allowed, place, way)
                    yield _of_rank(views.cell, rank, (tcp_name, predicted_name), values, cause)


def _allowed_tcp(cell: dict[str, Any], steps: pd.DataFrame, transfers: int, predicted: float) -> _Range:
    """Range of the bytes that TCP may count for a rank in one direction, to other hosts or to its own."""
    strategy = strategy_of(cell)
    of_transfer = strategy.framing_bytes(cell["world_size"])
    every_way = [f"predicted_{place}{way}_bytes" for place in ("", "local_") for way in ("tx", "rx")]
    overhead_bytes = transfers * of_transfer + TCP_TOLERANCE * steps[every_way].sum().sum()
    # The last step may not have sent all that it predicts; the next one does.
    unsent_bytes = predicted * _unfinished_share(cell, len(steps)) if strategy.settles_late else 0.0
    # Predictions are rounded to a byte.
    return _Range(predicted - transfers - unsent_bytes, predicted + overhead_bytes)


def _tcp_cause(
    steps: pd.DataFrame,
    transfers: pd.DataFrame,
    peers: pd.DataFrame,
    tcp: float,
    allowed: _Range,
    place: str,
    way: str,
) -> str:
    """The likely reason for a count of TCP that is not allowed."""
    if tcp < allowed.least:
        uncounted = _uncounted_shards(transfers, peers, way)
        if uncounted:
            return f"the connection to {', '.join(uncounted)} is not counted"
        return "some connections or steps are not counted"
    other_place = "" if place else "local_"
    other_predicted = float(steps[f"predicted_{other_place}{way}_bytes"].sum())
    other_tcp = float(steps[f"tcp_{other_place}{way}_bytes"].sum())
    doubled = tcp / 2 in allowed
    mixed = other_predicted > 0 and tcp - other_predicted in allowed
    if mixed and not (doubled and other_tcp >= other_predicted):
        stays, crosses = "what stays on the host", "what crosses the network"
        return f"{crosses} is counted as {stays}" if place else f"{stays} is counted as {crosses}"
    if doubled:
        return "a counter is added up twice"
    if steps[["queue_dropped_packets", "tcp_retrans_bytes"]].sum().any():
        return "what TCP repeated is counted as payload"
    return "something else was sent on the same connections, or other ranks' bytes were counted"


def _uncounted_shards(transfers: pd.DataFrame, peers: pd.DataFrame, way: str) -> list[str]:
    """Shards that a rank exchanges payload with, and that fewer bytes are counted for."""
    if peers.empty:
        return []
    own = transfers[transfers["op"] == ("push" if way == "tx" else "pull")]
    payload_bytes = own.groupby("peer")["payload_bytes"].sum()
    counted_bytes = peers.groupby("peer")[f"{way}_bytes"].sum().reindex(payload_bytes.index, fill_value=0)
    return [str(shard) for shard in payload_bytes.index[counted_bytes < payload_bytes]]


def _check_peers(views: CellViews) -> Iterator[Breach]:
    """A step's TCP bytes are the sum of those to each peer."""
    if views.peers.empty or views.peers["same_host"].isna().any():
        return
    if _restarted(views):  # peers of a step that was made again are there for every attempt
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
    """Interface and wire carry what TCP sent, with headers, acknowledgements and little of anyone else's.

    Ranks that go their own ways measure at different times what their host's counters tell for all of them,
    and a restarted cell may have been on other hosts: nothing can be said of these.
    """
    if views.hosts is None or not makes_steps_together(views.cell) or _restarted(views):
        return
    for host, row in views.hosts.iterrows():
        for way, back in (("tx", "rx"), ("rx", "tx")):
            breaches = [*_check_against_tcp(views, str(host), row, way, back)]
            yield from breaches or _check_wire(views, str(host), row, way, back)


def _check_against_tcp(
    views: CellViews, host: str, row: pd.Series[float], way: str, back: str
) -> Iterator[Breach]:
    """Holds a host's interface and wire against TCP's count, one way."""
    tcp, steps = row[f"tcp_{way}_bytes"], views.steps["step"].nunique()
    seen_share = 1 - UNSEEN_SHARE - _unfinished_share(views.cell, steps)  # bytes may still be queued
    background_bytes = BACKGROUND_BYTES + BACKGROUND_BYTES_PER_S * row["wall_s"]
    most = tcp * MOST_FRAME_RATIO + row[f"tcp_{back}_bytes"] * ACK_RATIO + background_bytes
    for name, ratio in ((f"nic_{way}_bytes", 1.0), (f"wire_{way}_bytes", FRAME_RATIO)):
        # Anyone's traffic passes loopback; there is no telling whether it is too much.
        too_much = row[name] > most and views.cell.get("interface") != "lo"
        if too_much or row[name] < tcp * ratio * seen_share:
            cause = (
                "other programs used the link, TCP had to repeat much, or its count lacks connections"
                if too_much
                else "another interface carried the bytes, or TCP's count holds more than was sent"
            )
            views_compared = (name, f"tcp_{way}_bytes")
            yield _of_host(views.cell, host, views_compared, (row[name] / steps, tcp / steps), cause)


def _check_wire(views: CellViews, host: str, row: pd.Series[float], way: str, back: str) -> Iterator[Breach]:
    """Holds a host's wire against its interface, one way: the wire has the header of every frame, too."""
    names = (f"wire_{way}_bytes", f"nic_{way}_bytes")
    wire, nic = row[names[0]], row[names[1]]
    most = nic * MOST_FRAME_RATIO + row[f"nic_{back}_bytes"] * ACK_RATIO + BACKGROUND_BYTES
    if wire < nic * (1 - UNSEEN_SHARE) or wire > most:
        steps = views.steps["step"].nunique()
        cause = "one of the two counters is another host's"
        yield _of_host(views.cell, host, names, (wire / steps, nic / steps), cause)


def _check_bound(views: CellViews) -> Iterator[Breach]:
    """Transfers take at least as long as the links need for their bytes.

    Ranks that go their own ways do not all use a link at the same time.
    """
    if views.longest_comm_s is None or not views.bound_s or not makes_steps_together(views.cell):
        return
    shaped = bool(views.cell.get("emulated_rate_bits_per_s"))
    tolerance = BOUND_TOLERANCE_SHAPED if shaped else BOUND_TOLERANCE_MEASURED
    if views.longest_comm_s < views.bound_s * (1 - tolerance):
        yield Breach(
            cell=views.cell["cell"],
            views=("comm_s", "bound_s"),
            values=(views.longest_comm_s, views.bound_s),
            cause="a link has another rate than was set, or bytes took another way",
        )


def _unfinished_share(cell: dict[str, Any], steps: int) -> float:
    """Share of the steps that may have transfers in flight: the last step of a cell that has not ended."""
    return 0.0 if steps == cell.get("steps") else 1 / steps


def _restarted(views: CellViews) -> bool:
    """Whether a worker or server was started again."""
    return bool(views.cell.get("restarted") or (views.steps["attempt"] > 0).any())


def _by_rank(steps: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for rank in sorted(steps["rank"].unique()):
        yield int(rank), steps[steps["rank"] == rank]


def _of_rank(
    cell: dict[str, Any], rank: int, views: tuple[str, str], values: tuple[float, float], cause: str
) -> Breach:
    return Breach(cell=cell["cell"], rank=rank, views=views, values=values, cause=cause)


def _of_host(
    cell: dict[str, Any], host: str, views: tuple[str, str], values: tuple[float, float], cause: str
) -> Breach:
    return Breach(cell=cell["cell"], host=host, views=views, values=values, cause=cause)


def _sum(figures: pd.Series[float]) -> float | None:
    """The sum of all figures; None where one is unknown."""
    return None if figures.isna().any() else float(figures.sum())
