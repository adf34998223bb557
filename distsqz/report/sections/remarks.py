"""Remarks: warnings, what was trained, and what was emulated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

from distsqz.lab.rate import format_rate
from distsqz.report.faults import breach_warnings, missing_rows
from distsqz.report.lateness import lateness_remarks
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section
from distsqz.report.sections.links import are_alike, summary
from distsqz.report.tables import hosts_by_rate


def section(runs: Sequence[MeasuredRun]) -> Section:
    """Sentences about every run, below all tables. What holds for several runs is stated once."""
    runs_of: defaultdict[str, list[str]] = defaultdict(list)
    for run in runs:
        for line in dict.fromkeys(_remarks(run)):
            runs_of[line].append(run.run_id)
    return Section(
        key="remarks",
        title="About these figures",
        notes=tuple(
            line if len(run_ids) == len(runs) else f"{', '.join(run_ids)}: {line}"
            for line, run_ids in runs_of.items()
        ),
    )


def _remarks(measured: MeasuredRun) -> list[str]:
    rows = measured.rows
    lines = [*missing_rows(measured), *breach_warnings(measured.cells)]
    lines += dict.fromkeys(_setting(row) for row in rows)
    lines += chain.from_iterable(map(lateness_remarks, rows))
    lines += _bytes_remarks(rows)
    if measured.links and are_alike(measured.links):
        lines.append(summary(measured.links))
    if any(row.get("interface") == "lo" for row in rows):
        lines.append(
            "The network was loopback: byte counts are real, but step times show this machine "
            "and not a network link."
        )
    lines += dict.fromkeys(_emulation(row) for row in rows if row.get("emulated"))
    crowded = [row for row in rows if row["oversubscribed"]]
    if crowded:
        lines.append(_oversubscription(crowded))
    return lines


def _setting(row: dict[str, Any]) -> str:
    """Sentence about the data and options of a cell, as far as its run recorded them."""
    facts = [
        (f"{row['world_size']} workers", True),
        (f"on {row.get('data')} images at {row.get('image_size')}x{row.get('image_size')}", row.get("data")),
        (f"{row.get('batch_size')} a worker a step", row.get("batch_size")),
        (f"{row.get('num_classes')} classes", row.get("num_classes")),
        (f"{row.get('precision')}", row.get("precision")),
        (f"compute threads a worker: {row.get('threads_per_worker')}", row.get("threads_per_worker")),
    ]
    return f"Trained with {', '.join(words for words, known in facts if known)}."


def _bytes_remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about bytes that the figures of cells leave out, if there are any."""
    lines = []
    for row in rows:
        if row["queue_dropped_packets"]:
            lines.append(
                f"The queues of the sending hosts dropped packets of {row['cell']} before they were on the "
                f"wire ({row['queue_dropped_packets']:,.1f} a step and rank). TCP sent them later; a byte "
                "counts once."
            )
    again = [(row["tcp_retrans_bytes"], row["cell"]) for row in rows if row["tcp_retrans_bytes"]]
    if again:
        each = ", ".join(f"{count:,.0f} in {cell}" for count, cell in again)
        lines.append(f"Bytes that TCP sent again are not counted as payload; a step and rank: {each}.")
    return lines


def _emulation(row: dict[str, Any]) -> str:
    """Sentence about the emulated parts of a cell's network."""
    rates = {format_rate(rate): hosts for rate, hosts in hosts_by_rate(row).items()}
    emulated = "Hosts and links were emulated on one machine"
    if not rates:
        return f"{emulated}."
    if len(rates) == 1:
        return f"{emulated}: each link shaped to {next(iter(rates))} each way, no delay added."
    each = "; ".join(f"{rate} for {', '.join(hosts)}" for rate, hosts in rates.items())
    return f"{emulated}: links shaped each way, to {each}; no delay added."


def _oversubscription(rows: list[dict[str, Any]]) -> str:
    shares = [row["sched_wait_share"] for row in rows if row["sched_wait_share"] is not None]
    waited = f" (training threads waited up to {max(shares):.1%} of a step for one)" if shares else ""
    if all(row.get("emulated") for row in rows):
        meaning = (
            "compute times show hosts that share this machine's cores, and hosts of their own would compute "
            "faster; busbw of goodput shows whether the links were full."
        )
    else:
        meaning = "such step times show the machine, not the network."
    cells = ", ".join(row["cell"] for row in rows)
    return f"Warning: cores were oversubscribed in {cells}{waited}: {meaning}"
