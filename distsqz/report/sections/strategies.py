"""Other strategies against all-reduce, for each model: bytes of all processes, and step times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from distsqz.report.claims import doubts, how_times_are_compared, time_claim, workers
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool, pooled_cells
from distsqz.report.section import Section
from distsqz.strategies.registry import REFERENCE, strategy_named, strategy_of

COLUMNS = (
    "model",
    "world_size",
    "strategy",
    "servers",
    "placement",
    "consistency",
    "bytes_ratio",
    "bytes_source",
    "step_ratio",
    "step_ratio_ci95",
    "paired",
    "pairs",
)


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row and a sentence for each cell that has another strategy than all-reduce."""
    comparisons = list(chain.from_iterable(run.strategy_comparisons for run in runs))
    pooled = pooled_cells(pool(runs), "strategies")
    spoken = [row for row in comparisons if cells_of(row) not in pooled]
    number_of = Counter(map(_subject, comparisons))
    return Section(
        key="strategy_comparisons",
        title=f"{_compared(comparisons)}, the same model ({how_times_are_compared(comparisons)})",
        columns=COLUMNS,
        identifying=3,
        rows=tuple(comparisons),
        sentences=tuple(_finding(row, number_of[_subject(row)] > 1) for row in spoken),
        notes=(
            "Bytes are those that all processes, servers included, send to other hosts "
            "(over loopback, if all are on one host).",
        ),
    )


def _compared(comparisons: Sequence[dict[str, Any]]) -> str:
    """The strategies that are compared, in words."""
    titles = dict.fromkeys(strategy_of(row).title for row in comparisons)
    others = " and ".join(titles) or "other strategies"
    return f"{others[0].upper()}{others[1:]} over {strategy_named(REFERENCE).title}"


def cells_of(comparison: dict[str, Any]) -> tuple[str, str, str]:
    """The run's id, and the cells of all-reduce and of the other strategy, as `pooling` has them."""
    return comparison["run_id"], comparison["over_cell"], comparison["cell"]


def _subject(comparison: dict[str, Any]) -> tuple[Any, ...]:
    """What a sentence names a comparison by; those of several runs, or of several options, share it."""
    return comparison["model"], comparison["world_size"], comparison["strategy"]


def _finding(comparison: dict[str, Any], ambiguous: bool) -> str:
    """Sentence about what all-reduce saves, and how certain that is."""
    base, other = comparison["over"], comparison["strategy"]
    other = comparison["cell"] if ambiguous else other
    claims = [_bytes_claim(comparison, base, other)] if comparison["bytes_ratio"] is not None else []
    if not comparison["differences"]:
        how = "paired blocks" if comparison["paired"] else "unpaired"
        claims.append(time_claim(comparison, base, other, how))
    scope = f"With {workers(comparison)}, for {comparison['model']} under {base} and {other}"
    return f"{scope}, {'; '.join([*claims, *doubts(comparison)])}."


def _bytes_claim(comparison: dict[str, Any], base: str, other: str) -> str:
    shown = ratio(comparison["bytes_ratio"])
    source = "of TCP payload" if comparison["bytes_source"] == "tcp" else "by prediction"
    if shown == ratio(1.0):
        return f"all processes together send equally many bytes {source} ({shown})"
    if comparison["bytes_ratio"] < 1:
        return f"the processes of {other} together send {shown} the bytes {source} of {base}'s"
    return f"the processes of {base} together send {shown} fewer bytes {source} than {other}'s"
