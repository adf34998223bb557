"""Larger models against smaller ones: bytes and step times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from distsqz.report.claims import doubts, how_times_are_compared, time_claim, workers
from distsqz.report.comparisons import compare_models
from distsqz.report.formats import ratio, seconds
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool, pooled_cells
from distsqz.report.section import Section
from distsqz.strategies.registry import strategy_of

COLUMNS = (
    "strategy",
    "world_size",
    "small",
    "large",
    "bytes_ratio",
    "bytes_source",
    "step_ratio",
    "step_ratio_ci95",
    "paired",
    "pairs",
)


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row and a sentence for each pair of models that are compared."""
    within = list(chain.from_iterable(run.model_comparisons for run in runs))
    alone = [run.cells[0] for run in runs if len(run.cells) == 1]
    comparisons = [*within, *compare_models(alone, across_runs=True)]
    pooled = pooled_cells(pool(runs), "models")
    by_cell = {(row["run_id"], row["cell"]): row for run in runs for row in run.rows}
    several = ("small_run_id", "large_run_id") if len(runs) > 1 else ()
    number_of = Counter(map(subject, comparisons))
    return Section(
        key="comparisons",
        title=f"Larger model over smaller ({how_times_are_compared(comparisons)})",
        columns=(*COLUMNS, *several),
        identifying=4,
        rows=tuple(comparisons),
        sentences=tuple(
            _finding(
                comparison,
                by_cell[comparison["small_run_id"], comparison["small_cell"]],
                by_cell[comparison["large_run_id"], comparison["large_cell"]],
                number_of[subject(comparison)] > 1,
            )
            for comparison in comparisons
            if cells_of(comparison) not in pooled
        ),
    )


def cells_of(comparison: dict[str, Any]) -> tuple[str, str, str]:
    """The id of the smaller model's run, and the two cells, as `distsqz.report.pooling` has them."""
    return comparison["small_run_id"], comparison["small_cell"], comparison["large_cell"]


def subject(comparison: dict[str, Any]) -> tuple[Any, ...]:
    """What a comparison is about; comparisons of several runs, or of varied options, may share it."""
    return comparison["strategy"], comparison["world_size"], comparison["small"], comparison["large"]


def _finding(
    comparison: dict[str, Any], small: dict[str, Any], large: dict[str, Any], ambiguous: bool
) -> str:
    """Sentence about what the smaller model saves, and how certain that is."""
    scope = f"With {workers(comparison)} under {comparison['strategy']}"
    if ambiguous:
        scope += f" ({small['cell']} and {large['cell']})"
    if not comparison["differences"]:
        claims = [_bytes_claim(comparison, small, large), _time_claim(comparison)]
        claims += _why(large)
    elif comparison["bytes_ratio"] is not None:
        claims = [_bytes_claim(comparison, small, large)]
    else:
        scope, claims = f"{scope}, for {small['model']} and {large['model']}", []
    return f"{scope}, {'; '.join([*claims, *doubts(comparison)])}."


def _bytes_claim(comparison: dict[str, Any], small: dict[str, Any], large: dict[str, Any]) -> str:
    source = comparison["bytes_source"]
    if source is None:
        return f"{small['model']} and {large['model']} sent no bytes that could be compared"
    verb, kind = ("sends", "of TCP payload") if source == "tcp" else ("must send", "by prediction")
    if small.get("spans_hosts"):
        kind += " to other hosts"
    hosts = ""
    if strategy_of(small).has_servers and small["host_link_bytes"] and large["host_link_bytes"]:
        hosts = f"; a host's link carries {_megabytes(small)} against {_megabytes(large)}"
    column = f"{source}_tx_bytes"
    return (
        f"{small['model']} {verb} {ratio(comparison['bytes_ratio'])} fewer bytes than {large['model']} "
        f"({small[column]:,.0f} against {large[column]:,.0f} {kind} a rank and step{hosts})"
    )


def _megabytes(row: dict[str, Any]) -> str:
    return f"{row['host_link_bytes'] / 1e6:,.1f} MB"


def _why(row: dict[str, Any]) -> list[str]:
    """Claim about how much of a cell's step its busiest link needs, if both are known."""
    if not (row["host_link_bytes"] and row["goodput_bytes_per_s"] and row["step_s"]):
        return []
    link_s = row["host_link_bytes"] / row["goodput_bytes_per_s"]
    return [
        f"{_megabytes(row)} at {row['goodput_bytes_per_s'] / 1e6:,.1f} MB/s are {seconds(link_s)} of "
        f"{row['model']}'s {seconds(row['step_s'])}"
    ]


def _time_claim(comparison: dict[str, Any]) -> str:
    how = "paired blocks" if comparison["paired"] else "unpaired"
    if comparison["small_run_id"] != comparison["large_run_id"]:
        how = f"separate runs, {how}"
    return time_claim(comparison, comparison["small"], comparison["large"], how)
