"""What shipping models cost, from finished runs of launch/deploy.py: bytes, times, the link that set them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.formats import Format, prose, render, to_json
from distsqz.lab.rate import format_rate
from distsqz.runs import COMPLETE, Run
from distsqz.theory.shipping import ShippingBound, shipping_bound, wire_bytes

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
"""Of the table for people; json and csv have more."""


def is_deployment(run: Run) -> bool:
    """Whether a run sent models to clients, and trained none."""
    return any(cell.get("kind") == "shipment" for cell in run.cells)


def read_shipments(run: Run) -> list[dict[str, Any]]:
    """A row a model, in the order they were sent: its entry in run.json, and what was measured.

    `tcp_bytes` and `wire_bytes` are means over the clients, what one client received; `head_wire_bytes` is
    what the head's link carried for one, with what was lost behind it and sent again. Times of a client run
    from its request to the whole and checked file, rebuilt if it came as an update.
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
        entries = [{"path": str(run.path), **_without_cells(run.meta)} for run in runs]
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
    times_s = shipments["transfer_s"] + shipments["rebuild_s"].fillna(0.0)
    bound = _bound(cell)
    last_s = float(times_s.max()) if arrived else None
    wire = _mean(shipments["wire_rx_bytes"])
    return {
        "run_id": run.run_id,
        **cell,
        "arrived": arrived,
        "tcp_bytes": _mean(shipments["tcp_rx_bytes"]),
        "wire_bytes": wire,
        "wire_vs_file": wire / cell["file_bytes"] if wire else None,
        "wire_vs_predicted": wire / wire_bytes(cell["file_bytes"]) - 1 if wire else None,
        "head_wire_bytes": _quotient(cell.get("head_wire_tx_bytes"), len(cell.get("hosts") or ())),
        "wire_back_bytes": _mean(shipments["wire_tx_bytes"]),
        "tcp_retrans_bytes": _mean(shipments["tcp_retrans_bytes"]),
        "bound_s": bound.seconds if bound else None,
        "bottleneck": bound.bottleneck if bound else None,
        "last_client_s": last_s,
        "last_vs_bound": last_s / bound.seconds if bound and last_s else None,
        "median_client_s": float(times_s.median()) if arrived else None,
        "rebuild_s": _mean(shipments["rebuild_s"]),
        "clients_per_min": 60 * arrived / last_s if last_s else None,
        "resumed": int(shipments["resumed"].sum()),
        "resent": int(shipments["resent"].sum()),
    }


def _bound(cell: dict[str, Any]) -> ShippingBound | None:
    """What theory says of emulated links; None where the links' rates are not known."""
    rates, hosts = cell.get("emulated_rate_bits_per_s"), cell.get("hosts")
    if not rates or not hosts:
        return None
    on_host = Counter(hosts)
    shares = [rates[host] / 8 / on_host[host] for host in hosts]
    return shipping_bound(wire_bytes(cell["file_bytes"]), rates[cell["head_host"]] / 8, shares)


def _quotient(total: float | None, parts: int) -> float | None:
    return total / parts if total is not None and parts else None


def _mean(column: pd.Series[Any]) -> float | None:
    """Over the clients; null if it is not known of every one."""
    return float(column.mean()) if len(column) and column.notna().all() else None


def _remarks(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing the figures."""
    lines = []
    if run.meta["status"] != COMPLETE:
        arrived, wanted = (sum(row[name] for row in rows) for name in ("arrived", "clients"))
        reason = (run.meta.get("error") or {}).get("text")
        lines.append(
            f"The run is {run.meta['status']}: {arrived} of {wanted} copies have arrived"
            + (f" ({reason})." if reason else ".")
        )
    for row in rows:
        if row.get("hosts") is None:
            continue
        if row["emulated"]:
            lines.append(_emulation(row))
        elif set(row["hosts"]) == {row["head_host"]}:
            lines.append(
                "Clients and head share a host: bytes are real, times show this machine and no link."
            )
    lines += [_bottleneck(row) for row in rows if row["bottleneck"] == "head"]
    return lines


def _emulation(row: dict[str, Any]) -> str:
    rates = row["emulated_rate_bits_per_s"]
    of_clients = sorted({rates[host] for host in row["hosts"]})
    return (
        "Hosts and links were emulated on one machine: the head's link shaped to "
        f"{format_rate(rates[row['head_host']])}, the clients' to {', '.join(map(format_rate, of_clients))} "
        "each way, no delay added."
    )


def _bottleneck(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}: the head's link is the bottleneck, which carries {row['clients']} copies; "
        "--head-rate gives it another rate."
    )


def _without_cells(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name != "cells"}
