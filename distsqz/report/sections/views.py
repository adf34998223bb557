"""Views of the bytes that a rank sends a step, from the payload to the wire."""

from __future__ import annotations

from collections.abc import Sequence

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section
from distsqz.report.tables import LOCAL, VIEWS

NUMBERS = {4: "Four", 5: "Five"}


def section(runs: Sequence[MeasuredRun]) -> Section:
    """The rows of the cells, with the columns of bytes."""
    rows = tuple(row for run in runs for row in run.rows)
    on_the_wire = any(row["wire_tx_bytes"] is not None for row in rows)
    views = [view for view in VIEWS if view != "wire_tx_bytes" or on_the_wire]
    host = ["host_link_bytes"] if any(row["host_link_bytes"] for row in rows) else []
    local = ["tcp_local_tx_bytes"] if any(row[name] for row in rows for name in LOCAL) else []
    notes = ["Interface counts the whole host of a rank."]
    if on_the_wire:
        notes = [
            "Interface and wire count the whole host, wire with the headers of every frame; wire vs tcp is "
            "its ratio to the TCP bytes of all processes of a host."
        ]
    if host:
        notes.append("Host link is what the busiest host's link must carry in one direction.")
    if local:
        notes.append("Local bytes go to processes on the rank's own host; predicted and tcp leave them out.")
    several = ("run_id",) if len(runs) > 1 else ()
    return Section(
        key="views",
        title=f"{NUMBERS[len(views)]} views of the bytes that a rank sends a step",
        columns=(*several, "cell", *views, *host, *local, *(("wire_vs_tcp",) if on_the_wire else ())),
        headings={"nic_tx_bytes": "interface_tx_bytes"},
        identifying=len(several) + 1,
        rows=rows,
        notes=(" ".join(notes),) if rows else (),
        json_key="cells",
    )
