"""How much faster SqueezeNet steps are in channels_last and bf16 than in eager fp32, at equal loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ratios import shown
from distsqz.cli.command import run_command
from distsqz.cli.measure import record
from distsqz.cluster.options import SessionOptions
from distsqz.report.bootstrap import paired_ratio
from distsqz.report.tables import CellTable, read_cells
from distsqz.runs.reader import Run
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on, and how long."""

    model: str = "squeezenet"
    """A name of the registry."""
    data: str = "fashion-mnist"
    """Images whose loss is compared."""
    image_size: int = 224
    """Height and width of an image in pixels."""
    batch_size: int = 16
    """Images a step."""
    steps: int = 60
    """Measured steps of each combination."""
    checkpoint: Path | None = None
    """Parameters to begin with, by default those of the seed."""
    threads: int = 1
    """Compute threads."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Runs all combinations in turn; prints what each saves over eager fp32, and the losses."""
    training = TrainingOptions(
        data=options.data,
        image_size=options.image_size,
        batch_size=options.batch_size,
        steps=options.steps,
        warmup_steps=3,
        block_steps=2,
        threads=options.threads,
    )
    vary = {"precision": ("fp32", "bf16"), "channels_last": ("off", "on")}
    plan, entries = plan_session([options.model], 1, training, checkpoint=options.checkpoint, vary=vary)
    run = record("benchmark-compute", plan, entries, SessionOptions(workers=1), Path("runs"), {})
    eager, *others = read_cells(run)
    assert (eager.entry["precision"], eager.entry["channels_last"]) == ("fp32", "off")
    eager_loss = _late_loss(run, eager)
    for cell in others:
        variant = f"{cell.entry['precision']} with channels_last {cell.entry['channels_last']}"
        print(f"{options.model}: eager fp32 over {variant} step time {shown(_step_ratio(eager, cell))}")
        loss = _late_loss(run, cell)
        print(
            f"{options.model}: mean loss of the last quarter, {variant} over eager fp32 "
            f"{loss / eager_loss:.4f} ({loss:.4f} / {eager_loss:.4f})"
        )


def _step_ratio(numerator: CellTable, denominator: CellTable) -> tuple[float, tuple[float, float] | None]:
    """Step time of one cell over another's, paired block by block, with its 95% bootstrap interval."""
    above, below = (np.asarray(cell.block_means_s(), dtype=np.float64) for cell in (numerator, denominator))
    return paired_ratio(above, below)


def _late_loss(run: Run, cell: CellTable) -> float:
    """Mean loss over the last quarter of a cell's steps."""
    steps = run.table("steps").to_pandas()
    losses = steps[steps["cell"] == cell.entry["cell"]].sort_values("step")["loss"]
    return float(losses.tail(max(1, len(losses) // 4)).mean())


if __name__ == "__main__":
    run_command(main, Options, "Measure what channels_last and bf16 save, and that they cost no accuracy.")
