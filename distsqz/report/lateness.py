"""Separates communication from waiting, and names the rank that the others wait for.

Ranks that make their steps together meet in every step, so a rank that arrives early waits for the last one,
and that wait is recorded as exposed communication. The last rank to arrive waits for the transfer alone. The
least exposed communication among the ranks of a step is therefore communication, and what the others have
beyond it is waiting. Only durations are compared, never the clocks of two ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

COMPUTE = ["data_s", "forward_s", "backward_s", "optimizer_s"]
"""The phases of a rank's own work, in which it waits for nobody."""

PHASES = {
    "data": "data loading",
    "forward": "forward pass",
    "backward": "backward pass",
    "optimizer": "optimizer",
}
"""Names of the phases in sentences."""

LEAST_LATE_S = 2e-3
"""Least excess of a late rank in a step, in seconds. A busy machine's scheduler causes less."""

LEAST_LATE_SHARE = 0.05
"""Least excess of a late rank as a share of the step. Equal ranks on equal hosts differ by less."""

MOST_STEPS = 0.9
"""Share of the steps in which a late rank must be late by that much. Among equal ranks the last one changes
from step to step; one step in ten may be upset by something else."""

FEWEST_STEPS = 5
"""Below this number of steps one of two equal ranks is often the later one in all of them."""


@dataclass(frozen=True)
class Waiting:
    """Costs of synchronising for the ranks of a cell, for each unit: a step, or a block of steps."""

    step_s: pd.Series[float]
    """The slowest rank's mean step."""
    transfer_s: pd.Series[float]
    """Exposed communication of the last rank to arrive."""
    by_rank_s: pd.DataFrame
    """Unit x rank: what is left of `step_s` beyond a rank's own work and the transfer."""
    own_s: pd.DataFrame
    """Unit x part of a step that is neither communication nor waiting: means over ranks."""

    @property
    def others_s(self) -> pd.Series[float]:
        """By unit: the mean wait of the ranks other than the one that waits least."""
        waits = self.by_rank_s
        return (waits.sum(axis=1) - waits.min(axis=1)) / (waits.shape[1] - 1)

    @property
    def shares(self) -> pd.Series[float]:
        """Share of `step_s` that each part takes, `wait_s` and `exposed_comm_s` among them; the sum is 1."""
        parts = self.own_s.assign(wait_s=self.by_rank_s.mean(axis=1), exposed_comm_s=self.transfer_s)
        return parts.sum() / self.step_s.sum()


def slowest_rank_s(steps: pd.DataFrame, block_steps: int) -> pd.Series[float]:
    """By step: the wall time of the rank whose mean step is the longest in a block of `block_steps` steps."""
    wall_s = _by_rank(steps, steps["wall_s"])
    mean_s = wall_s.groupby(_unit(wall_s, block_steps)).transform("mean")
    return wall_s.where(mean_s.eq(mean_s.max(axis=1), axis=0)).max(axis=1)


def split_waiting(steps: pd.DataFrame, block_steps: int) -> Waiting | None:
    """Splits the exposed communication of ranks that make their steps together.

    A rank whose step ends before the slowest rank's waits for it in the next step or, after the last step of
    a block, at the barrier there. That time counts, too: a rank's work, the transfer and its wait add up to
    the step of the slowest rank.

    Args:
        steps: a cell's rows of `steps`, each step complete.
        block_steps: steps of a unit. With a parameter server a step's waits may fall into the next step, and
            only whole blocks are alike; under all-reduce each step is alike, and a unit has one.

    Returns:
        None where there are fewer than two ranks, or where exposed communication is unknown.
    """
    exposed_s = _by_rank(steps, steps["exposed_comm_s"])
    if exposed_s.shape[1] < 2 or exposed_s.isna().any(axis=None):
        return None
    unit = _unit(exposed_s, block_steps)
    transfer_s = exposed_s.min(axis=1).groupby(unit).mean()
    wall_s = _by_rank(steps, steps["wall_s"]).groupby(unit).mean()
    step_s = slowest_rank_s(steps, block_steps).groupby(unit).mean()
    work_s = wall_s - exposed_s.groupby(unit).mean()
    return Waiting(
        step_s=step_s,
        transfer_s=transfer_s,
        by_rank_s=(-work_s).add(step_s - transfer_s, axis=0),
        own_s=steps.groupby("step")[[*COMPUTE, "other_s"]].mean().groupby(unit).mean(),
    )


def late_ranks(steps: pd.DataFrame, waiting: Waiting) -> list[dict[str, Any]]:
    """The ranks that stand out as late, the latest first; empty where none does.

    A rank's excess in a step is what its own work, or one phase of it, takes longer than the median of the
    other ranks'. The rank stands out where an excess is above `LEAST_LATE_S` and `LEAST_LATE_SHARE` of a step
    in `MOST_STEPS` of the steps, and the other ranks wait longer than this rank does by at least half of it.

    Returns:
        A row a rank: `rank`, `host`, `late_s` (excess of its own work, median over steps), `phase` (the one
        with the largest excess, such as `forward`) and `phase_late_s` (that excess).
    """
    if steps["step"].nunique() < FEWEST_STEPS:
        return []
    least_s = max(LEAST_LATE_S, LEAST_LATE_SHARE * float(waiting.step_s.median()))
    work_s = steps[COMPUTE].sum(axis=1)
    excess_s = [_excess(_by_rank(steps, values)) for values in (*(steps[phase] for phase in COMPUTE), work_s)]
    typical_s = pd.DataFrame([each.median() for each in excess_s], index=[*COMPUTE, "work_s"])
    in_most_steps_s = pd.DataFrame([each.quantile(1 - MOST_STEPS) for each in excess_s]).max()
    waited_for_s = -_excess(waiting.by_rank_s).median()
    stands_out = (in_most_steps_s > least_s) & (waited_for_s > typical_s.max() / 2)
    hosts = steps.groupby("rank")["host"].last()
    rows = [
        {
            "rank": int(rank),
            "host": hosts[rank],
            "late_s": float(typical_s.loc["work_s", rank]),
            "phase": str(typical_s.loc[COMPUTE, rank].idxmax()).removesuffix("_s"),
            "phase_late_s": float(typical_s.loc[COMPUTE, rank].max()),
        }
        for rank in stands_out.index[stands_out]
    ]
    return sorted(rows, key=lambda row: -row["late_s"])


def lateness_remarks(row: dict[str, Any]) -> list[str]:
    """A sentence for each late rank of a cell's row: where it is late, and what that costs the others."""
    return [
        f"Rank {late['rank']} (host {late['host']}) is late in {row['cell']}: its own work takes "
        f"{_ms(late['late_s'])} a step longer than the other ranks' ({PHASES[late['phase']]}: "
        f"{_ms(late['phase_late_s'])}). The other ranks wait {_ms(row['wait_s'])} a step for it; exposed "
        f"communication is {_ms(row['exposed_comm_s'])}."
        for late in row["late_ranks"] or []
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.{1 if seconds < 0.01 else 0}f} ms"


def _unit(by_step: pd.DataFrame, block_steps: int) -> pd.Index[int]:
    """The number of each step's block, counted from the first step."""
    unit: pd.Index[int] = (by_step.index - by_step.index.min()) // block_steps
    return unit


def _by_rank(steps: pd.DataFrame, values: pd.Series[float]) -> pd.DataFrame:
    """Values of the rows of `steps` as a table, step x rank."""
    return pd.DataFrame({"step": steps["step"], "rank": steps["rank"], "value": values}).pivot(
        index="step", columns="rank", values="value"
    )


def _excess(values: pd.DataFrame) -> pd.DataFrame:
    """Each rank's value less the median of the other ranks', row by row."""
    others = {rank: values.drop(columns=rank).median(axis=1) for rank in values.columns}
    return values - pd.DataFrame(others)
