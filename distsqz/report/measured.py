"""Selects the rows of a run that count, by one rule for steps, transfers, peers and a parameter server's
updates.

Warm-up is left out. A step counts once every rank has reported it, so a run may be read while it goes on, and
of a step that was done again after a restart only the last attempt counts. With a parameter server a step's
parameters may come in the next step: only whole blocks count, at whose end everything has come back.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE
from distsqz.strategies.registry import strategy_of


def makes_steps_together(cell: dict[str, Any]) -> bool:
    """Whether all ranks of a cell make each step together."""
    return strategy_of(cell).makes_steps_together


def measured_steps(run: Run) -> pd.DataFrame:
    """The rows of `steps` that count, one for each rank and step."""
    steps: pd.DataFrame = run.table("steps").to_pandas()
    apart = steps["cell"].isin([cell["cell"] for cell in run.cells if not makes_steps_together(cell)])
    # Where ranks go their own ways, one that was replaced did its steps again, not the others.
    rank_apart = steps["rank"].where(apart, -1)
    last_attempt = steps.groupby([steps["cell"], steps["step"], rank_apart])["attempt"].transform("max")
    # A step that was measured may have been made again as warm-up, after a restart.
    steps = steps[(steps["attempt"] == last_attempt) & ~steps["warmup"]]
    reported = steps.groupby(["cell", "step"])["rank"].transform("nunique")
    steps = steps[(reported == steps["world_size"]) | apart.reindex(steps.index)]
    if run.meta.get("status") == COMPLETE:
        return steps
    broken = [_broken_blocks(cell, steps[steps["cell"] == cell["cell"]]) for cell in run.cells]
    return steps.drop(index=[row for of_cell in broken for row in of_cell])


def _broken_blocks(cell: dict[str, Any], steps: pd.DataFrame) -> list[Any]:
    """Rows of the block that each rank of a parameter server's cell had not finished."""
    block_steps = cell.get("block_steps")
    if not cell.get("servers") or not block_steps or steps.empty:
        return []
    first = steps["step"].min()
    block = (steps["step"] - first) // block_steps
    # A block is over once a step of the next has been made, or the last step that was planned.
    last_block = block.groupby(steps["rank"]).transform("max")
    last_step = steps.groupby("rank")["step"].transform("max")
    over = (block < last_block) | (last_step == first + (cell.get("steps") or 0) - 1)
    over |= (last_step - first + 1) % block_steps == 0
    return list(steps.index[~over])


def of_steps(rows: pd.DataFrame, steps: pd.DataFrame, *more_keys: str) -> pd.DataFrame:
    """The rows of another table that belong to steps that count, matched by cell, rank, step and more."""
    keys = ["cell", "rank", "step", *more_keys]
    counted = pd.MultiIndex.from_frame(steps[keys])
    return rows[pd.MultiIndex.from_frame(rows[keys]).isin(counted)]


def measured_updates(run: Run, steps: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of `updates` that count: those of pushes in steps that count.

    A run of an older distsqz does not tell the step of a push. Under `sync` it is the version of the
    parameters; in its other cells every update counts.

    Args:
        run: the run.
        steps: what `measured_steps` gives for it, where that is known already.
    """
    updates: pd.DataFrame = run.table("updates").to_pandas()
    steps = measured_steps(run) if steps is None else steps
    together = updates["cell"].isin([cell["cell"] for cell in run.cells if makes_steps_together(cell)])
    updates["step"] = updates["step"].where(updates["step"].notna(), updates["version"].where(together))
    # Servers and workers that make their steps together start again together.
    counted = updates.index.isin(of_steps(updates[together], steps, "attempt").index)
    counted |= updates.index.isin(of_steps(updates[~together], steps).index)
    return updates[counted | updates["step"].isna()]
