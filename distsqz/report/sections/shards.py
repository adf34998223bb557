"""Shards of parameter servers: what each received, and how long it was busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section

COLUMNS = (
    "cell",
    "shard",
    "host",
    "pushes",
    "received_bytes",
    "dropped",
    "queue_wait_s",
    "service_s",
    "busy_s",
)
EVEN_SHARE = 0.01
"""Shards that received no more than this share above the mean of their cell count as equally loaded."""


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each shard of a cell, the one that received most first."""
    rows = tuple({"run_id": run.run_id, **row} for run in runs for row in run.shards)
    by_cell = defaultdict(list)
    for row in rows:
        by_cell[row["run_id"], row["cell"]].append(row)
    uneven = [of_cell for of_cell in by_cell.values() if _load(of_cell) > 1 + EVEN_SHARE]
    several = ("run_id",) if len(runs) > 1 else ()
    return Section(
        key="shards",
        title="Shards (those that received most of a cell first; waits and service: medians)",
        columns=(*several, *COLUMNS),
        identifying=len(several) + 2,
        rows=rows,
        sentences=tuple(map(_hottest, uneven)),
        noteworthy=bool(uneven) or any(row["dropped"] for row in rows),
        in_run=True,
    )


def _load(shards: Sequence[dict[str, Any]]) -> float:
    """Bytes that the first of a cell's shards received, over the mean of its shards."""
    total = sum(shard["received_bytes"] for shard in shards)
    return float(shards[0]["received_bytes"] * len(shards) / total) if total else 1.0


def _hottest(shards: Sequence[dict[str, Any]]) -> str:
    first = shards[0]
    return (
        f"The hottest shard of {first['cell']} is {first['shard']} on {first['host']}: it received "
        f"{first['received_bytes']:,} bytes, {ratio(_load(shards))} the mean."
    )
