"""Sessions of the same cells, pooled: ratios by the rate of the links, with the spread between sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsqz.lab.rate import rate_words
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool
from distsqz.report.section import Section

COLUMNS = (
    "kind",
    "other",
    "base",
    "strategy",
    "world_size",
    "rate_bits_per_s",
    "sessions",
    "bytes_ratio",
    "time_ratio",
    "time_ratio_ci95",
    "session_ratio",
)
HEADINGS = {"base": "over", "other": "compared"}


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each comparison and rate, and a sentence for each comparison of models."""
    rows = pool(runs)
    processors = sorted({name for row in rows for name in row["processors"]})
    return Section(
        key="sessions",
        title="Sessions pooled (geometric means; intervals hold the spread between sessions)",
        columns=COLUMNS,
        headings=HEADINGS,
        identifying=3,
        rows=tuple(rows),
        sentences=tuple(_finding(row) for row in rows if row["kind"] == "models"),
        notes=(f"Processors: {', '.join(processors)}. {NOTE}",) if rows else (),
    )


NOTE = (
    "Ratios of models and strategies are step times over step times; those of speed-ups are images a second "
    "over those of one worker alone."
)


def _finding(row: dict[str, Any]) -> str:
    sessions = f"{row['sessions']} session{'s' if row['sessions'] > 1 else ''}"
    where = f"{row['world_size']} workers under {row['strategy']}"
    if row["rate_bits_per_s"] is not None:
        where += f" at {rate_words(row['rate_bits_per_s'])}"
    sure = "one session, so nothing is known of the spread between sessions"
    if row["time_ratio_ci95"]:
        low, high = row["time_ratio_ci95"]
        sure = f"[{ratio(low)}, {ratio(high)}], 95% interval with the spread between sessions"
    claims = [
        f"{row['base']}'s step takes {ratio(row['time_ratio'])} less time than {row['other']}'s ({sure})"
    ]
    if row["bytes_ratio"] is not None:
        claims.insert(0, f"{row['base']} sends {ratio(row['bytes_ratio'])} fewer bytes")
    return f"Over {sessions}, with {where}, {' and '.join(claims)}."
