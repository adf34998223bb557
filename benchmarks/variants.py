"""What the benchmarks share: variants of a model's training, taking turns in one session, and their ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsqz.cli.measure import record
from distsqz.cluster.session import SessionOptions
from distsqz.report.bootstrap import paired_ratio
from distsqz.report.tables import CellTable, read_cells
from distsqz.runs import Run
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan


def run_variants(
    name: str,
    model: str,
    variants: Mapping[str, TrainingOptions],
    workers: int,
    checkpoint: Path | None = None,
) -> Run:
    """Trains a model under each variant's options, block by block in turn; gives each variant's cell.

    All begin with the parameters in `checkpoint`, by default with those of the seed.
    """
    cells, entries = [], []
    weights: dict[str, dict[str, Any]] = {}
    for variant, options in variants.items():
        plan, (entry,) = plan_session([model], workers, options, checkpoint=checkpoint)
        (cell,) = plan.cells
        cells.append(replace(cell, name=variant))
        entries.append({**entry, "cell": variant})
        if checkpoint:
            weights[variant] = plan.weights[cell.name]
    together = SessionPlan(cells=cells, weights=weights)
    session = SessionOptions(workers=workers)
    return record(f"benchmark-{name}", together, entries, session, Path("runs"), {})


def by_variant(run: Run) -> dict[str, CellTable]:
    """What each variant measured."""
    return {str(cell.row["cell"]): cell for cell in read_cells(run)}


def step_ratio(numerator: CellTable, denominator: CellTable) -> tuple[float, tuple[float, float] | None]:
    """Step time of one variant over another's, paired block by block, with its 95% bootstrap interval."""
    above, below = (np.asarray(cell.block_means_s(), dtype=np.float64) for cell in (numerator, denominator))
    return paired_ratio(above, below)


def period_s(run: Run, variant: str, block_steps: int) -> NDArray[np.float64]:
    """By block, the mean time from one step's start to the next one's: with what is done between steps."""
    steps = run.table("steps").to_pandas()
    steps = steps[(steps["cell"] == variant) & (steps["rank"] == 0) & ~steps["warmup"]].sort_values("step")
    starts = steps["t_start_ns"].to_numpy()[: len(steps) // block_steps * block_steps]
    blocks = starts.reshape(-1, block_steps)
    return np.asarray((blocks[:, -1] - blocks[:, 0]) / (block_steps - 1) / 1e9, dtype=np.float64)


def told(ratio: tuple[float, tuple[float, float] | None]) -> str:
    """A ratio and its interval, for people."""
    value, interval = ratio
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
