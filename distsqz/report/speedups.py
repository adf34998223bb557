"""What several hosts gain over one: a cell against the same model on one worker by itself.

Emulated hosts may share the cores of one machine, so that they compute slower than hosts of their own would.
The step that these would make is computed then: compute time as the worker has it alone, the links as busy
as measured, and the same share of computing time covering communication.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from distsqz.report.comparisons import step_ratio
from distsqz.report.tables import CellTable
from distsqz.runs.cell_spec import rules_by_option
from distsqz.strategies.registry import strategy_of
from distsqz.training.options import TrainingOptions

ALIKE = (
    "model",
    *(
        field.name
        for field in fields(TrainingOptions)
        if not (of := rules_by_option(TrainingOptions)[field.name]).idle_in_baselines and not of.not_alike
    ),
)
"""Keys of entries in run.json in which a cell and its baseline must agree."""


def speedups(cells: Sequence[CellTable], baselines: Sequence[CellTable]) -> list[dict[str, Any]]:
    """A row for each cell of a run that has a baseline.

    `speedup` is how many times as many images a second all workers train on as one worker alone, and
    `efficiency` is the speed-up for each host (on GPUs, for each worker); None where all workers share the
    baseline's host. Where `computed` is true, `speedup` follows from `own_hosts_step_s` and has no interval.
    """
    rows = []
    for cell in cells:
        baseline = next((each for each in baselines if _alike(cell, each)), None)
        if baseline is not None:
            rows.append(_row(cell, baseline))
    return rows


def is_baseline(cell: CellTable) -> bool:
    """Whether a cell was trained by one worker while the others waited."""
    return strategy_of(cell.row).is_baseline


def hosts_of(row: dict[str, Any]) -> int | None:
    """Number of hosts that a cell's workers are on; None where that is not known."""
    hosts = row.get("hosts")
    return len(set(hosts)) if hosts else None


def share_cores(row: dict[str, Any]) -> bool:
    """Whether a cell's hosts are emulated ones with more cores together than their machine has."""
    cores, machine_cores = row.get("cores_by_host"), row.get("machine_cores")
    return bool(row.get("emulated") and cores and machine_cores and sum(cores.values()) > machine_cores)


def own_hosts_step_s(row: dict[str, Any], compute_s: float) -> float | None:
    """Step time that a cell would have on hosts that share no cores.

    Args:
        row: the cell's row, measured on hosts that share cores.
        compute_s: time that a host needs to compute a step with its cores to itself.

    Returns:
        None where the cell's compute time, its communication or its links are not known.
    """
    crowded_s, exposed_s, bound_s = row["compute_s"], row["exposed_comm_s"], row["bound_s"]
    if not crowded_s or exposed_s is None or bound_s is None:
        return None
    hidden_s = min(max(0.0, bound_s - exposed_s), crowded_s)
    covered_s = hidden_s * min(1.0, compute_s / crowded_s)
    return float(compute_s + exposed_s + hidden_s - covered_s)


def _alike(cell: CellTable, baseline: CellTable) -> bool:
    return all(cell.entry.get(name) == baseline.entry.get(name) for name in ALIKE)


def _row(cell: CellTable, baseline: CellTable) -> dict[str, Any]:
    row, alone_s = cell.row, baseline.row["step_s"]
    workers, hosts = row["world_size"], hosts_of(row)
    unit = workers if row.get("device", "cpu") != "cpu" else hosts
    computed = share_cores(row)
    own_s = None
    if computed and alone_s is not None:
        workers_a_host = max(Counter(row["hosts"]).values())
        own_s = own_hosts_step_s(row, workers_a_host * alone_s)
        speedup, interval = workers * alone_s / own_s if own_s else None, None
    else:
        ratio = step_ratio(baseline, cell, across_runs=False)
        speedup = workers / ratio["step_ratio"] if ratio["step_ratio"] else None
        interval = ratio["step_ratio_ci95"] and [workers / end for end in reversed(ratio["step_ratio_ci95"])]
    return {
        "model": row["model"],
        "strategy": row["strategy"],
        "world_size": workers,
        "hosts": hosts,
        "cell": row["cell"],
        "baseline_cell": baseline.row["cell"],
        "run_id": cell.run_id,
        "baseline_step_s": alone_s,
        "step_s": row["step_s"],
        "own_hosts_step_s": own_s,
        "speedup_ratio": speedup,
        "speedup_ratio_ci95": interval,
        "efficiency_share": None if speedup is None or unit in (None, 1) else speedup / unit,
        "computed": computed,
    }
