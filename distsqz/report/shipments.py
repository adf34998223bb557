"""Costs of shipping a model to many clients: bytes, times, and the link that limits them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from distsqz.runs.reader import Run
from distsqz.theory.shipping import ClientLink, ShippingBound, shipping_bound, wire_bytes
from distsqz.theory.token_bucket import TokenBucket


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
        "head_wire_bytes": _quotient(cell.get("head_wire_tx_bytes"), copies_over_links(cell))
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
    rates, on_host = cell.get("emulated_rate_bits_per_s") or {}, clients_by_host(cell)
    if not on_host or not rates.keys() >= {cell["head_host"], *on_host}:
        return None
    head = TokenBucket(rates[cell["head_host"]] / 8)
    clients = [
        ClientLink(bucket=TokenBucket(rates[host] / 8), copies=copies) for host, copies in on_host.items()
    ]
    return shipping_bound(wire_bytes(cell["file_bytes"]), head, clients)


def clients_by_host(cell: dict[str, Any]) -> dict[str, int]:
    """Clients on each host but the head's own, from which they are reached without a link."""
    return Counter(host for host in cell.get("hosts") or () if host != cell["head_host"])


def copies_over_links(cell: dict[str, Any]) -> int:
    """Copies that the head's link carries."""
    return sum(clients_by_host(cell).values())


def _quotient(numerator: float | None, denominator: float) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _mean(column: pd.Series[Any]) -> float | None:
    """Over the clients; null if it is not known of every one."""
    return float(column.mean()) if len(column) and column.notna().all() else None
