"""Several hosts against one: how much faster all workers train than one worker by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from distsqz.report.claims import is_slower
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool, pooled_cells
from distsqz.report.section import Section

COLUMNS = (
    "world_size",
    "hosts",
    "baseline_step_s",
    "step_s",
    "own_hosts_step_s",
    "speedup_ratio",
    "speedup_ratio_ci95",
    "efficiency_share",
)
COMPUTED = (
    "Emulated hosts share cores, so speed-ups are computed for hosts that do not: these compute as fast as "
    "one worker alone, their links are as busy as measured, and no host is late."
)


def section(runs: Sequence[MeasuredRun]) -> Section:
    """A row for each cell with a baseline, and a sentence for each number of workers and hosts."""
    rows = [row for run in runs for row in run.speedups]
    computed = any(row["computed"] for row in rows)
    unknown = {"speedup_ratio_ci95"} if computed else {"own_hosts_step_s"}
    ambiguous = len({(row["model"], row["strategy"], row["world_size"]) for row in rows}) < len(rows)
    identifying = ("cell",) if ambiguous else ("model", "strategy")
    pooled = pooled_cells(pool(runs), "speedups")
    spoken = [row for row in rows if cells_of(row) not in pooled]
    return Section(
        key="speedups",
        title="Images a second over those of one worker by itself, with all cores of its host",
        columns=tuple(name for name in (*identifying, *COLUMNS) if name not in unknown),
        identifying=len(identifying),
        rows=tuple(rows),
        sentences=tuple(_findings(spoken, "cell" if ambiguous else "model")),
        notes=(COMPUTED,) if computed else (),
    )


def cells_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """The id of a row's run, and its baseline and cell, as `distsqz.report.pooling` has them."""
    return row["run_id"], row["baseline_cell"], row["cell"]


def _findings(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """One sentence for each number of workers and hosts: what each model gains under each strategy.

    Args:
        rows: the section's.
        name: the column that a sentence calls a row by.
    """
    groups: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["speedup_ratio"] is not None:
            groups[row["world_size"], row["hosts"], row["computed"]].append(row)
    return [_finding(of_group, name) for of_group in groups.values()]


def _finding(rows: Sequence[dict[str, Any]], name: str) -> str:
    workers, hosts = rows[0]["world_size"], rows[0]["hosts"]
    where = f"{hosts} hosts" if hosts == workers else f"{workers} workers on {hosts} host"
    where += "s" if hosts not in (1, workers) else ""
    how = " (computed for hosts that share no cores)" if rows[0]["computed"] else ""
    of_subject: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_subject[row[name]].append(row)
    each = "; ".join(f"{subject} {_gains(of_one)}" for subject, of_one in of_subject.items())
    return f"Over one worker alone, {where} train as many times the images a second{how}: {each}."


def _gains(rows: Sequence[dict[str, Any]]) -> str:
    """What one model gains under each strategy, slower ones told apart where not all are slower."""
    slow = [is_slower(row["speedup_ratio"], row["speedup_ratio_ci95"]) for row in rows]
    if all(slow):
        return f"{' and '.join(map(_gain, rows))}, slower than one machine"
    apart = {True: " (slower than one machine)", False: ""}
    return " and ".join(_gain(row) + apart[is_slow] for row, is_slow in zip(rows, slow, strict=True))


def _gain(row: dict[str, Any]) -> str:
    gain = f"{ratio(row['speedup_ratio'])} under {row['strategy']}"
    if row["efficiency_share"] is not None:
        gain += f" ({row['efficiency_share']:.0%} efficiency)"
    return gain
