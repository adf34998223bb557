"""What the benchmarks share: variants of a model's training, taking turns in one session, and their ratio."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.bootstrap import paired_ratio
from analysis.tables import CellTable, read_cells
from distsqz.orchestration.progress import SessionProgress
from distsqz.orchestration.session import SessionOptions, run_session
from distsqz.runs import Run, RunWriter
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan


def run_variants(name: str, model: str, variants: Mapping[str, TrainingOptions], workers: int) -> Run:
    """Trains a model under each variant's options, block by block in turn; gives each variant's cell."""
    cells, entries = [], []
    for variant, options in variants.items():
        plan, (entry,) = plan_session([model], "ddp", workers, options)
        cells.append(replace(plan.cells[0], name=variant))
        entries.append({**entry, "cell": variant})
    with (
        RunWriter.create(Path("runs"), f"benchmark-{name}", sys.argv, {}, entries) as writer,
        SessionProgress(cells) as progress,
    ):
        run_session(SessionPlan(cells=cells), SessionOptions(workers=workers), writer, progress)
    return Run(writer.path)


def by_variant(run: Run) -> dict[str, CellTable]:
    """What each variant measured."""
    return {str(cell.row["cell"]): cell for cell in read_cells(run)}


def step_ratio(numerator: CellTable, denominator: CellTable) -> tuple[float, tuple[float, float] | None]:
    """Step time of one variant over another's, paired block by block, with its 95% bootstrap interval."""
    above, below = (np.asarray(cell.block_means_s(), dtype=np.float64) for cell in (numerator, denominator))
    return paired_ratio(above, below)


def told(ratio: tuple[float, tuple[float, float] | None]) -> str:
    """A ratio and its interval, for people."""
    value, interval = ratio
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
