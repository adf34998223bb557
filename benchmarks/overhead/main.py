"""What measuring and Ray cost a step: `python benchmarks/overhead/main.py metering|launching`."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.overhead.trainings import RayTraining, TorchrunTraining, Training
from benchmarks.ratios import shown
from distsqz.cli.command import run_command
from distsqz.cli.measure import record
from distsqz.cluster.options import SessionOptions
from distsqz.cluster.worker_env import KEEP_FREED_MEMORY
from distsqz.report.bootstrap import paired_ratio
from distsqz.runs.reader import Run
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

Turn = tuple[int, int]
"""Begin and end, in ns since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, with which model."""

    experiment: Annotated[Literal["metering", "launching"], tyro.conf.Positional]
    """metering: metered over unmetered steps; launching: Ray-launched over torchrun-launched steps."""
    model: str = "squeezenet"
    """A name of the registry."""
    steps: int = 200
    """metering: measured steps of each."""
    block_steps: int = 10
    """metering: steps that one takes before the other takes its turn."""
    turns: int = 20
    """launching: turns of each."""
    turn_s: float = 4.0
    """launching: how long a turn lasts, in seconds."""
    plain_memory: Literal["as-ray", "stock"] = "as-ray"
    """launching: whether the plain script gets the memory settings of glibc that Ray's workers get."""
    workers: int = 2
    """Data-parallel workers."""
    image_size: int = 64
    """Height and width of an image in pixels."""
    debug: bool = False
    """Print tracebacks."""

    @property
    def training(self) -> TrainingOptions:
        """What all experiments have in common."""
        return TrainingOptions(image_size=self.image_size, steps=self.steps, warmup_steps=10)


def main(options: Options) -> None:
    """Runs the experiment and prints its ratio."""
    if options.experiment == "metering":
        metering(options)
    else:
        launching(options)


def metering(options: Options) -> None:
    """Metered and unmetered steps take turns in one session; times are from step start to step start."""
    training = replace(options.training, block_steps=options.block_steps)
    vary = {"metered": (True, False)}
    plan, entries = plan_session([options.model], options.workers, training, vary=vary)
    session = SessionOptions(workers=options.workers)
    run = record("benchmark-metering", plan, entries, session, Path("runs"), {})
    cells = {entry["metered"]: entry["cell"] for entry in run.cells}
    above, below = (_period_s(run, cells[metered], options.block_steps) for metered in (True, False))
    print(f"{options.model}: metered over unmetered time a step {shown(paired_ratio(above, below))}")


def _period_s(run: Run, cell: str, block_steps: int) -> NDArray[np.float64]:
    """By block, the mean time from one step's start to the next one's: with what is done between steps."""
    steps = run.table("steps").to_pandas()
    steps = steps[(steps["cell"] == cell) & (steps["rank"] == 0) & ~steps["warmup"]].sort_values("step")
    starts = steps["t_start_ns"].to_numpy()[: len(steps) // block_steps * block_steps]
    blocks = starts.reshape(-1, block_steps)
    return np.asarray((blocks[:, -1] - blocks[:, 0]) / (block_steps - 1) / 1e9, dtype=np.float64)


def launching(options: Options) -> None:
    """Both train all the while, but one is stopped while the other has its turn; paired turn by turn."""
    with tempfile.TemporaryDirectory() as folder:
        what = (options.model, options.workers, options.training, Path(folder))
        memory = KEEP_FREED_MEMORY if options.plain_memory == "as-ray" else {}
        trainings = [RayTraining(*what), TorchrunTraining(*what, environment=memory)]
        try:
            for training in trainings:
                training.wait_for_steps()
                training.send(signal.SIGSTOP)
            turns = [_take_turns(trainings, options.turn_s, index) for index in range(options.turns)]
        finally:
            for training in trainings:
                training.end()
        medians = [
            [_median_step_s(training.steps(), turn[index]) for turn in turns]
            for index, training in enumerate(trainings)
        ]
    ray, torchrun = (np.asarray(each) for each in medians)
    print(
        f"{options.model}: Ray-launched over torchrun-launched step time ({options.plain_memory} memory) "
        f"{shown(paired_ratio(ray, torchrun))}"
    )


def _take_turns(trainings: Sequence[Training], turn_s: float, index: int) -> list[Turn]:
    """A turn of each training, in this order or, every other time, in the reverse; told in this order."""
    turns: dict[int, Turn] = {}
    for position in (0, 1) if index % 2 == 0 else (1, 0):
        trainings[position].send(signal.SIGCONT)
        begin_ns = time.time_ns()
        time.sleep(turn_s)
        turns[position] = (begin_ns, time.time_ns())
        trainings[position].send(signal.SIGSTOP)
    return [turns[0], turns[1]]


def _median_step_s(steps: NDArray[np.float64], turn: Turn) -> float:
    """Of the steps that lie within a turn; `steps` has a row (start in ns, duration in s) each."""
    begin, end = steps[:, 0], steps[:, 0] + steps[:, 1] * 1e9
    return float(np.median(steps[(begin >= turn[0]) & (end <= turn[1]), 1]))


if __name__ == "__main__":
    run_command(main, Options, "Measure what measuring and Ray cost a step.")
