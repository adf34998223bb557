"""Is a planted delay told apart from communication, and named? `python benchmarks/lateness/main.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.lateness.planted import PHASES
from distsqz.cli.command import run_command
from distsqz.errors import RunError

MODELS = "benchmarks.lateness.planted"
DELAYS_MS = (20, 100, 500)
RANKS = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    runs: int = 20
    """Number of runs. Each has one model without a delay and one model with each delay, in one phase of one
    rank; phases and ranks take turns."""
    steps: int = 20
    """Measured steps of each model under each strategy."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Makes the runs, then prints what was named and how far waiting and communication are off."""
    rows = [row for index in range(options.runs) for row in _run(index, options.steps)]
    for (strategy, delay_ms), of_delay in pd.DataFrame(rows).groupby(["strategy", "delay_ms"]):
        right = f"{of_delay['right'].sum()} of {len(of_delay)}"
        if delay_ms == 0:
            print(f"{strategy}, no delay: nobody is named in {right}")
        else:
            figures = "; ".join(_spread(of_delay, name) for name in ("wait_ms", "late_ms", "comm_excess_ms"))
            print(f"{strategy}, {delay_ms} ms: rank and phase are named in {right}; {figures}")


def _spread(rows: pd.DataFrame, name: str) -> str:
    """Median, least and most of a column."""
    values = rows[name]
    return f"{name} {values.median():.1f} [{values.min():.1f}, {values.max():.1f}]"


def _run(index: int, steps: int) -> list[dict[str, Any]]:
    """One run over loopback: a row a cell."""
    phase, rank = PHASES[index % len(PHASES)], (index + index // len(PHASES)) % RANKS
    delayed = {f"{MODELS}:{phase}_{delay}ms_on_rank_{rank}": delay for delay in DELAYS_MS}
    command = [
        *(
            sys.executable,
            "launch/compare.py",
            "--no-baseline",
            "--format",
            "json",
            "--network",
            "loopback",
            "--address",
            "local",
        ),
        *("--models", f"{MODELS}:on_time_0", *delayed, "--workers", str(RANKS), "--threads", "1"),
        *("--image-size", "32", "--batch-size", "2", "--num-classes", "10"),
        *("--steps", str(steps), "--block-steps", "5", "--warmup-steps", "3"),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RunError("training failed")
    cells = json.loads(done.stdout)["cells"]
    clean_s = {cell["strategy"]: cell["exposed_comm_s"] for cell in cells if cell["model"] not in delayed}
    return [
        _row(cell, phase, rank, delayed.get(cell["model"], 0), clean_s[cell["strategy"]])
        for cell in cells
        # Through a parameter server the servers update: a worker has no optimizer in which it could be late.
        if (cell["strategy"], phase) != ("ps", "optimizer") or cell["model"] not in delayed
    ]


def _row(cell: dict[str, Any], phase: str, rank: int, delay_ms: int, clean_s: float) -> dict[str, Any]:
    expected = [(rank, phase)] if delay_ms else []
    named = cell["late_ranks"]
    row = {
        "strategy": cell["strategy"],
        "phase": phase,
        "rank": rank,
        "delay_ms": delay_ms,
        "right": [(late["rank"], late["phase"]) for late in named] == expected,
        "wait_ms": cell["wait_s"] * 1e3,
        "late_ms": named[0]["late_s"] * 1e3 if named else float("nan"),
        "comm_excess_ms": (cell["exposed_comm_s"] - clean_s) * 1e3,
        "comm_ms": cell["exposed_comm_s"] * 1e3,
        "step_ms": cell["step_s"] * 1e3,
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    run_command(
        main, Options, "Plant delays in one phase of one rank and check what the report makes of them."
    )
