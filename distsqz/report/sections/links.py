"""Links: what the path between two hosts carried before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section

COLUMNS = ("host", "peer_host", "goodput_bytes_per_s", "goodput_bits_per_s", "rtt_us")
MOST_LINKS = 16
"""Links of each run that people see."""
ALIKE = 0.05
"""Links whose goodput differs by no more than this share are summed up in a sentence, not in a table."""


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each link; people see all links of a run, or the slowest where there are too many."""
    rows = tuple(
        {"run_id": run.run_id, **link, "goodput_bits_per_s": link["goodput_bytes_per_s"] * 8}
        for run in runs
        for link in run.links
    )
    shown: list[int] = []
    for run in runs:
        of_run = [index for index, row in enumerate(rows) if row["run_id"] == run.run_id]
        if len(of_run) > MOST_LINKS:
            of_run.sort(key=lambda index: float(rows[index]["goodput_bytes_per_s"]))
        shown += of_run[:MOST_LINKS]
    some = f" (the {MOST_LINKS} slowest of each run that has more)" if len(shown) < len(rows) else ""
    several = ("run_id",) if len(runs) > 1 else ()
    return Section(
        key="links",
        title=f"Links, measured before training{some}",
        columns=(*several, *COLUMNS),
        identifying=len(several) + 2,
        rows=rows,
        shown=tuple(shown),
        noteworthy=not all(are_alike(run.links) for run in runs),
        in_run=True,
    )


def are_alike(links: Sequence[dict[str, Any]]) -> bool:
    """Whether links differ so little that a sentence says all about them."""
    goodputs = [link["goodput_bytes_per_s"] for link in links]
    return not goodputs or min(goodputs) >= (1 - ALIKE) * max(goodputs)


def summary(links: Sequence[dict[str, Any]]) -> str:
    """Sentence about what the links of a run carried before training."""
    goodputs, times = ([link[name] for link in links] for name in ("goodput_bytes_per_s", "rtt_us"))
    bytes_per_s = min(goodputs)
    return (
        f"Before training, each of {len(links)} links between hosts carried at least "
        f"{bytes_per_s / 1e6:,.1f} MB/s ({bytes_per_s * 8e-6:,.0f} Mbit/s) of TCP payload; round trips took "
        f"{min(times):,} to {max(times):,} us."
    )
