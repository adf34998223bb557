"""What measuring and Ray cost a step: `python benchmarks/overhead/main.py metering|launching`."""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from analysis.bootstrap import paired_ratio
from benchmarks.variants import by_variant, period_s, run_variants, told
from distsqz.cli import run_command
from distsqz.training.options import TrainingOptions

PLAIN = Path(__file__).with_name("plain_torchrun.py")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, with which model."""

    experiment: Annotated[Literal["metering", "launching"], tyro.conf.Positional]
    """metering: metered over unmetered steps; launching: Ray-launched over torchrun-launched steps."""
    model: str = "squeezenet"
    """A name of the registry."""
    steps: int = 200
    """Measured steps of each variant (metering), or of each launch (launching)."""
    block_steps: int = 10
    """metering: steps that a variant takes before the other takes its turn."""
    rounds: int = 4
    """launching: how often both are launched, in turn."""
    workers: int = 2
    """Data-parallel workers."""
    image_size: int = 64
    """Height and width of an image in pixels."""
    debug: bool = False
    """Print tracebacks."""

    @property
    def training(self) -> TrainingOptions:
        """What all variants have in common."""
        return TrainingOptions(image_size=self.image_size, steps=self.steps, warmup_steps=10)


def main(options: Options) -> None:
    """Runs the experiment and prints its ratio."""
    if options.experiment == "metering":
        metering(options)
    else:
        launching(options)


def metering(options: Options) -> None:
    """Metered and unmetered steps take turns in one session; times are from step start to step start."""
    metered = replace(options.training, block_steps=options.block_steps)
    variants = {"metered": metered, "unmetered": replace(metered, metered=False)}
    run = run_variants("metering", options.model, variants, options.workers)
    above, below = (period_s(run, variant, options.block_steps) for variant in variants)
    print(f"{options.model}: metered over unmetered time a step {told(paired_ratio(above, below))}")


def launching(options: Options) -> None:
    """Whole launches take turns, R T, T R, ..., both unmetered; the ratio is paired round by round."""
    medians: dict[str, list[float]] = {"ray": [], "torchrun": []}
    for index in range(options.rounds):
        for launcher in ("ray", "torchrun") if index % 2 == 0 else ("torchrun", "ray"):
            step_s = _ray_steps(options) if launcher == "ray" else _torchrun_steps(options)
            medians[launcher].append(statistics.median(step_s))
            print(f"{launcher}: median step {medians[launcher][-1] * 1000:.1f} ms", file=sys.stderr)
    ratio = paired_ratio(np.asarray(medians["ray"]), np.asarray(medians["torchrun"]))
    print(f"{options.model}: Ray-launched over torchrun-launched step time {told(ratio)}")


def _ray_steps(options: Options) -> list[float]:
    unmetered = replace(options.training, metered=False, block_steps=options.steps)
    run = run_variants("launching", options.model, {"ray": unmetered}, options.workers)
    return [float(step_s) for step_s in by_variant(run)["ray"].step_s]


def _torchrun_steps(options: Options) -> list[float]:
    training = options.training
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={options.workers}", str(PLAIN), options.model]
    command += map(str, [training.image_size, training.batch_size, training.warmup_steps, training.steps])
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(line) for line in output.split()]


if __name__ == "__main__":
    run_command(main, Options, "Measure what measuring and Ray cost a step.")
