"""Sessions of the same cells, pooled: ratios by the rate of the links, with the spread between sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsqz.report.claims import is_slower, links_in_words, pooled_sureness, ratio_claim
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool
from distsqz.report.section import Section

KINDS = ("models", "strategies", "options", "speedups")
"""In the order of their sentences."""

IDENTIFYING = ("kind", "other", "base")
COLUMNS = (
    "strategy",
    "world_size",
    "rate_bits_per_s",
    "sessions",
    "bytes_ratio",
    "time_ratio",
    "time_ratio_ci95",
    "session_ratio",
)
WHERE_KNOWN = ("host_rates_bits_per_s", "goodput_bytes_per_s", "computed")
"""Columns that are shown only where a row has a value for them."""
HEADINGS = {"base": "over", "other": "compared"}


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row and a sentence for each comparison and all links."""
    rows = pool(runs)
    processors = sorted({name for row in rows for name in row["processors"]})
    identifying = (*IDENTIFYING, *(["settings"] if any(row["settings"] for row in rows) else []))
    one = "; of one session, that within it" if any(row["sessions"] == 1 for row in rows) else ""
    return Section(
        key="sessions",
        title=f"Sessions pooled (geometric means; intervals hold the spread between sessions{one})",
        columns=(*identifying, *COLUMNS, *(name for name in WHERE_KNOWN if any(row[name] for row in rows))),
        headings=HEADINGS,
        identifying=len(identifying),
        rows=tuple(rows),
        sentences=tuple(_finding(row) for kind in KINDS for row in rows if row["kind"] == kind),
        notes=(f"Processors: {', '.join(processors)}. {NOTE}",) if rows else (),
    )


NOTE = (
    "Ratios of models and strategies are step times over step times; those of speed-ups are images a second "
    "over those of one worker alone."
)


def _finding(row: dict[str, Any]) -> str:
    sessions = f"{row['sessions']} session{'s' if row['sessions'] > 1 else ''}"
    where = f"{row['world_size']} workers"
    if row["kind"] != "strategies":
        where += f" under {row['strategy']}"
    if links := links_in_words(row):
        where += f" at {links}"
    if row["settings"]:
        where += f" ({row['settings']})"
    if row["kind"] == "strategies":
        where += f", for {row['base']} and {row['other']}"
    sure = pooled_sureness(row)
    if row["kind"] == "speedups":
        how = ", computed for hosts that share no cores" if row["computed"] else ""
        slow = ", slower than one machine" if is_slower(row["time_ratio"], row["time_ratio_ci95"]) else ""
        claims = [
            f"{row['other']} trains {ratio(row['time_ratio'])} the images a second of one worker alone"
            f"{how} ({sure}){slow}"
        ]
    else:
        claims = [ratio_claim(row["time_ratio"], row["time_ratio_ci95"], row["base"], row["other"], sure)]
        if row["kind"] == "models" and row["bytes_ratio"] is not None:
            claims.insert(
                0, f"{row['base']} sends {ratio(row['bytes_ratio'])} fewer bytes than {row['other']}"
            )
    return f"Over {sessions}, with {where}, {' and '.join(claims)}."
