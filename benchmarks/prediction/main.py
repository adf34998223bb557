"""Whether the brackets of `distsqz predict` hold what is measured: `python benchmarks/prediction/main.py`.

Three models are trained under both strategies, in labs of several sizes at several rates, each beside its
baseline. A line is printed for each cell: the bracket that follows from the baseline and the bytes, its
width, and the measured step. Where emulated hosts share cores, the step that hosts of
their own would make is held against the bracket (`distsqz/report/speedups.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from distsqz import open_run
from distsqz.cli.command import run_command
from distsqz.errors import RequestError, RunError
from distsqz.lab.rate import parse_rate
from distsqz.report.formats import render
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.predictions import Links, baselines_of, predict

MODELS = ("squeezenet", "benchmarks.prediction.two_million:TwoMillion", "alexnet")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    hosts: tuple[int, ...] = (2, 4)
    """Numbers of emulated hosts, with a worker on each."""
    rates: tuple[str, ...] = ("1gbit", "100mbit", "20mbit")
    """Rates of every emulated link, in each direction."""
    steps: tuple[int, ...] = (12, 4, 2)
    """Measured steps of each cell at each of the rates."""
    runs: Path = Path("runs/prediction")
    """Directory in which the run directories are made."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Measures in one lab after the other, and prints the table as Markdown."""
    if len(options.steps) != len(options.rates):
        raise RequestError(f"--steps {' '.join(map(str, options.steps))}: one for each of --rates")
    rows: list[dict[str, Any]] = []
    for rate, steps in zip(options.rates, options.steps, strict=True):
        for hosts in options.hosts:
            rows += _measured(hosts, rate, steps, options.runs)
            print(render(pd.DataFrame(rows, dtype=object), "markdown"), flush=True)
            print(flush=True)


def _measured(hosts: int, rate: str, steps: int, runs: Path) -> list[dict[str, Any]]:
    """A row for each cell of a run in a new lab."""
    command = [
        *(sys.executable, "launch/compare.py", "--models", *MODELS, "--hosts", str(hosts), "--rate", rate),
        *("--image-size", "64", "--num-classes", "1000", "--steps", str(steps), "--warmup-steps", "1"),
        *("--block-steps", "1", "--collective-timeout-s", "600", "--runs", str(runs), "--format", "json"),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"training failed: {' '.join(command)}")
    (run,) = (MeasuredRun(open_run(each["path"])) for each in json.loads(done.stdout)["runs"])
    baselines = baselines_of([run], ())
    links = [Links.of_rate(parse_rate(rate))]
    return [_row(row) for row in predict([run], baselines, ("ddp", "ps"), [hosts], links)]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    held_s = row["own_hosts_step_s"] or row["measured_step_s"]
    return {
        "model": row["model"].rpartition(":")[2],
        "strategy": row["strategy"],
        "hosts": row["world_size"],
        "rate_bits_per_s": row["rate_bits_per_s"],
        "compute_s": round(row["compute_s"], 4),
        "low_s": round(row["step_low_s"], 4),
        "high_s": round(row["step_high_s"], 4),
        "width_share": row["step_high_s"] / row["step_low_s"] - 1,
        "measured_s": round(row["measured_step_s"], 4),
        "wait_s": round(row["measured_wait_s"], 4),
        "held_s": round(held_s, 4),
        "held": row["step_low_s"] <= held_s <= row["step_high_s"],
    }


if __name__ == "__main__":
    run_command(main, Options, "Measure whether predicted brackets hold measured steps.")
