"""Retransmissions by link: payload that TCP sent again from one host to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Row, Section

NOTEWORTHY_SHARE = 1e-3
"""Retransmissions are noteworthy from this share of what the busiest link of their cell carried: links of a
ring that carry acknowledgements only may repeat a large share of next to nothing."""

MOST_LINKS = 16
"""Links that people see: those with the most retransmitted bytes."""


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each cell and pair of hosts between which ranks sent, over the measured steps."""
    rows = tuple(row for run in runs for cell in run.run.cells for row in _links_of(run, cell))
    worst = sorted(range(len(rows)), key=lambda index: -(rows[index]["retrans_bytes"] or 0))
    several = ("run_id",) if len(runs) > 1 else ()
    some = f" (the {MOST_LINKS} links with the most)" if len(rows) > MOST_LINKS else ""
    return Section(
        key="retransmissions",
        title=f"Retransmissions by link, over all measured steps{some}",
        columns=(*several, "cell", "host", "peer_host", "tx_bytes", "retrans_bytes", "retrans_share"),
        identifying=len(several) + 3,
        rows=rows,
        shown=tuple(worst[:MOST_LINKS]),
        notes=("Ranks count what they send; what a parameter server sends is not in this table.",),
        noteworthy=_noteworthy(rows),
    )


def _noteworthy(rows: Sequence[Row]) -> bool:
    """Whether some link repeated a share of its cell's traffic that could show in a step time."""
    busiest_bytes: dict[tuple[str, str], int] = {}
    for row in rows:
        cell = row["run_id"], row["cell"]
        busiest_bytes[cell] = max(busiest_bytes.get(cell, 0), row["tx_bytes"])
    return any(
        (row["retrans_bytes"] or 0) >= NOTEWORTHY_SHARE * busiest_bytes[row["run_id"], row["cell"]]
        for row in rows
    )


def _links_of(measured: MeasuredRun, cell: dict[str, Any]) -> list[Row]:
    """The links that a cell's ranks used; none where the run does not tell on which hosts they were."""
    peers = measured.peers[measured.peers["cell"] == cell["cell"]]
    hosts, servers = cell.get("hosts") or [], cell.get("server_hosts") or []
    host_of = {**dict(enumerate(hosts)), **{f"shard {shard}": host for shard, host in enumerate(servers)}}
    # A shard has no rank; it is known by its name, such as `shard 0`.
    peer = peers["peer_rank"].astype(object).where(peers["peer_rank"].notna(), peers["peer"])
    ends = peers.assign(host=peers["rank"].map(host_of), peer_host=peer.map(host_of))
    # Groups leave out rows with an unknown host.
    links = ends[ends["host"] != ends["peer_host"]].groupby(["host", "peer_host"])
    sums = links[["tx_bytes", "retrans_bytes"]].agg(lambda values: values.sum(skipna=False))
    return [
        {
            "run_id": measured.run_id,
            "cell": cell["cell"],
            "host": host,
            "peer_host": peer_host,
            "tx_bytes": int(sent),
            "retrans_bytes": None if again != again else int(again),  # NaN: not known of every step
            "retrans_share": None if again != again else float(again / sent),
        }
        for (host, peer_host), sent, again in sums.itertuples(name=None)
        if sent
    ]
