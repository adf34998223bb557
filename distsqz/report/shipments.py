"""What shipping models cost, from finished runs of launch/deploy.py: bytes, times, the link that set them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from distsqz.lab.rate import format_rate
from distsqz.report.formats import Format, prose, render, to_json
from distsqz.runs import COMPLETE, Run
from distsqz.theory.shipping import ClientLink, ShippingBound, shipping_bound, wire_bytes
from distsqz.theory.token_bucket import TokenBucket

COLUMNS = [
    "model",
    "form",
    "clients",
    "file_bytes",
    "tcp_bytes",
    "wire_bytes",
    "wire_vs_file",
    "wire_vs_predicted",
    "head_wire_bytes",
    "bound_s",
    "bottleneck",
    "last_client_s",
    "last_vs_bound",
    "median_client_s",
    "clients_per_min",
    "resumed",
    "resent",
]
"""Columns of the table for people; json and csv have more."""

CLOCK_ERROR = 0.02
"""Share of the bound by which a time may fall short of it before the report doubts one of them."""


def is_deployment(run: Run) -> bool:
    """Whether a run sent models to clients, and trained none."""
    return any(cell.get("kind") == "shipment" for cell in run.cells)


def read_shipments(run: Run) -> list[dict[str, Any]]:
    """A row for each model, in the order they were sent: its entry in run.json, and what was measured.

    `tcp_bytes` and `wire_bytes` are means over the clients, what one client received; `head_wire_bytes` is
    what the head's link carried for one, with what was lost behind it and sent again. Times of a client run
    from its request to the whole and checked file, rebuilt if it came as an update. `bound_s` is None where
    no emulated link was used. A model that has not arrived at every client has `arrived` and its bound, and
    None for everything that was measured.
    """
    shipments = run.table("shipments").to_pandas()
    return [_row(run, cell, shipments[shipments["cell"] == cell["cell"]]) for cell in run.cells]


def shipments_report(runs: Sequence[Run], fmt: Format) -> str:
    """What shipping cost in these runs."""
    by_run = [read_shipments(run) for run in runs]
    rows = [row for of_run in by_run for row in of_run]
    if fmt == "csv":
        return render(pd.DataFrame(rows, dtype=object), fmt)
    if fmt == "json":
        entries = [
            {"path": str(run.path), **_without_cells(run.meta), "warnings": _warnings(run, of_run)}
            for run, of_run in zip(runs, by_run, strict=True)
        ]
        return to_json({"runs": entries, "shipments": rows})
    several = ["run_id"] if len(runs) > 1 else []
    frame = pd.DataFrame(rows, dtype=object).reindex(columns=[*several, *COLUMNS])
    title = "Shipments" if several else f"Shipments of {runs[0].run_id}"
    said = dict.fromkeys(
        line for run, of_run in zip(runs, by_run, strict=True) for line in _remarks(run, of_run)
    )
    return render(frame, fmt, title) + "\n\n" + prose(list(said), fmt)


def _row(run: Run, cell: dict[str, Any], shipments: pd.DataFrame) -> dict[str, Any]:
    arrived = len(shipments)
    if arrived < cell["clients"]:
        shipments = shipments[:0]  # the part that arrived says nothing of the whole
    times_s = shipments["transfer_s"] + shipments["rebuild_s"].fillna(0.0)
    bound = _bound(cell)
    last_s = float(times_s.max()) if len(shipments) else None
    wire = _mean(shipments["wire_rx_bytes"])
    return {
        "run_id": run.run_id,
        **cell,
        "arrived": arrived,
        "tcp_bytes": _mean(shipments["tcp_rx_bytes"]),
        "wire_bytes": wire,
        "wire_vs_file": wire / cell["file_bytes"] if wire else None,
        "wire_vs_predicted": wire / wire_bytes(cell["file_bytes"]) - 1 if wire else None,
        "head_wire_bytes": _quotient(cell.get("head_wire_tx_bytes"), _sent_over_links(cell))
        if last_s
        else None,
        "wire_back_bytes": _mean(shipments["wire_tx_bytes"]),
        "tcp_retrans_bytes": _mean(shipments["tcp_retrans_bytes"]),
        "bound_s": bound.seconds if bound else None,
        "bottleneck": bound.bottleneck if bound else None,
        "last_client_s": last_s,
        "last_vs_bound": _quotient(last_s, bound.seconds) if bound else None,
        "median_client_s": float(times_s.median()) if last_s else None,
        "rebuild_s": _mean(shipments["rebuild_s"]),
        "clients_per_min": 60 * arrived / last_s if last_s else None,
        "resumed": int(shipments["resumed"].sum()) if last_s else None,
        "resent": int(shipments["resent"].sum()) if last_s else None,
    }


def _bound(cell: dict[str, Any]) -> ShippingBound | None:
    """What theory says of emulated links; None where the links' rates are not known, or none is used."""
    rates, on_host = cell.get("emulated_rate_bits_per_s") or {}, _clients_by_host(cell)
    if not on_host or not rates.keys() >= {cell["head_host"], *on_host}:
        return None
    head = TokenBucket(rates[cell["head_host"]] / 8)
    clients = [
        ClientLink(bucket=TokenBucket(rates[host] / 8), copies=copies) for host, copies in on_host.items()
    ]
    return shipping_bound(wire_bytes(cell["file_bytes"]), head, clients)


def _clients_by_host(cell: dict[str, Any]) -> dict[str, int]:
    """Clients on each host but the head's own, from which they are reached without a link."""
    return Counter(host for host in cell.get("hosts") or () if host != cell["head_host"])


def _sent_over_links(cell: dict[str, Any]) -> int:
    """Copies that the head's link carries."""
    return sum(_clients_by_host(cell).values())


def _quotient(numerator: float | None, denominator: float) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _mean(column: pd.Series[Any]) -> float | None:
    """Over the clients; null if it is not known of every one."""
    return float(column.mean()) if len(column) and column.notna().all() else None


def _remarks(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing the figures."""
    return [
        *_warnings(run, rows),
        *(line for row in rows if row.get("hosts") for line in _network(row)),
        *(_bottleneck(row) for row in rows if row["bottleneck"] == "head"),
    ]


def _warnings(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """How the run ended if it is not whole, and which figures cannot be right."""
    lines = []
    if run.meta["status"] != COMPLETE:
        arrived, wanted = (sum(row[name] for row in rows) for name in ("arrived", "clients"))
        reason = f" ({run.error_text})" if run.error_text else ""
        lines.append(f"The run is {run.meta['status']}: {arrived} of {wanted} copies have arrived{reason}.")
    lines += run.faults()
    lines += [
        f"Warning: {row['arrived']} of {row['clients']} copies of {row['model']} have arrived; "
        "it has no figures."
        for row in rows
        if 0 < row["arrived"] < row["clients"] or (run.meta["status"] == COMPLETE and not row["arrived"])
    ]
    lines += [_too_fast(row) for row in rows if (row["last_vs_bound"] or 1) < 1 - CLOCK_ERROR]
    return lines


def _too_fast(row: dict[str, Any]) -> str:
    return (
        f"Warning: the last copy of {row['model']} arrived after {row['last_client_s'] * 1e3:,.1f} ms, below "
        f"its bound of {row['bound_s'] * 1e3:,.1f} ms: the rates have changed, or bytes took another way."
    )


def _network(row: dict[str, Any]) -> list[str]:
    """What the bytes went through."""
    over_links, on_head = _sent_over_links(row), len(row["hosts"]) - _sent_over_links(row)
    lines = []
    if not over_links:
        lines.append("Clients and head share a host: bytes are real, times show this machine and no link.")
    elif on_head:
        lines.append(f"{on_head} of {row['clients']} clients share the head's host and take no link.")
    if row["emulated"] and over_links:
        lines.append(_emulation(row))
    return lines


def _emulation(row: dict[str, Any]) -> str:
    rates = row.get("emulated_rate_bits_per_s") or {}
    hosts = _clients_by_host(row)
    if not rates.keys() >= {row["head_host"], *hosts}:
        return "Hosts and links were emulated on one machine; the rates of the links are not known."
    of_clients = sorted({rates[host] for host in hosts})
    return (
        "Hosts and links were emulated on one machine: the head's link shaped to "
        f"{format_rate(rates[row['head_host']])}, the clients' to {', '.join(map(format_rate, of_clients))} "
        "each way, no delay added."
    )


def _bottleneck(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}: the head's link is the bottleneck, which carries {_sent_over_links(row)} copies; "
        "--head-rate gives it another rate."
    )


def _without_cells(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name != "cells"}
