"""Shipments: for each model that was sent to clients the bytes, the times and the link that set them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsqz.lab.rate import format_rate
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section
from distsqz.report.shipments import clients_by_host, copies_over_links
from distsqz.runs.writer import COMPLETE

COLUMNS = (
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
)
CLOCK_ERROR = 0.02
"""Share of the bound by which a time may fall short of it before the report doubts one of them."""


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each model that was sent."""
    several = ("run_id",) if len(runs) > 1 else ()
    return Section(
        key="shipments",
        title="Shipments" if several else f"Shipments of {runs[0].run_id}",
        columns=(*several, *COLUMNS),
        identifying=len(several) + 2,
        rows=tuple(row for run in runs for row in run.shipments),
        notes=tuple(dict.fromkeys(line for run in runs for line in _remarks(run))),
        in_csv=True,
    )


def _remarks(measured: MeasuredRun) -> list[str]:
    """Notes that a reader needs to trust the figures."""
    rows = measured.shipments
    return [
        *shipment_warnings(measured),
        *(line for row in rows if row.get("hosts") for line in _network(row)),
        *(_bottleneck(row) for row in rows if row["bottleneck"] == "head"),
    ]


def shipment_warnings(measured: MeasuredRun) -> list[str]:
    """How the run ended if it is not whole, and which figures cannot be right."""
    run, rows = measured.run, measured.shipments
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
    """Sentence about the network that carried the bytes."""
    over_links, on_head = copies_over_links(row), len(row["hosts"]) - copies_over_links(row)
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
    hosts = clients_by_host(row)
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
        f"{row['model']}: the head's link is the bottleneck, which carries {copies_over_links(row)} copies."
    )
