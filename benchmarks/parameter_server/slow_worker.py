"""One of four workers is three times as slow: what becomes of the others' pace, by consistency.

`python benchmarks/parameter_server/slow_worker.py`: over loopback, where the network is no limit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parameter_server.paced_net import SLOW_RANK
from distsqz import open_run
from distsqz.cli.command import run_command
from distsqz.errors import RunError

NETS = "benchmarks.parameter_server.paced_net"
CASES = {
    "sync, all alike": ("EvenNet",),
    "sync, one slow": ("UnevenNet",),
    "sync with a backup worker, one slow": ("UnevenNet", "--backup-workers", "1"),
    "async, one slow": ("UnevenNet", "--consistency", "async"),
    "ssp with staleness 3, one slow": ("UnevenNet", "--consistency", "ssp", "--staleness", "3"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    steps: int = 60
    """Of each worker, in each turn."""
    turns: int = 3
    """How often the cases take turns."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Lets the cases take turns and prints a line each."""
    pace: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.turns):
        for case, (net, *extra) in CASES.items():
            pace[case].append(_updates_per_s(net, extra, options.steps))
    base = statistics.median(pace["sync, all alike"])
    for case, found in pace.items():
        median = statistics.median(found)
        print(f"{case}: {median:.2f} steps/s of a worker that is not slow, {median / base:.3f} of all alike")


def _updates_per_s(net: str, extra: list[str], steps: int) -> float:
    """Steps a second of the workers that are not slow."""
    command = [
        *(sys.executable, "launch/ps.py", "--model", f"{NETS}:{net}", "--workers", "4", "--servers", "1"),
        *("--image-size", "16", "--batch-size", "2", "--steps", str(steps), "--warmup-steps", "5"),
        *("--format", "json", "--address", "local", *extra),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.splitlines()[-1] if done.stderr else "training failed")
    made = open_run(Path(json.loads(done.stdout)["runs"][0]["path"])).table("steps").to_pandas()
    fast = made[(made["rank"] != SLOW_RANK) & ~made["warmup"]]
    by_rank = fast.groupby("rank")["wall_s"].agg(["count", "sum"])
    return float((by_rank["count"] / by_rank["sum"]).mean())


if __name__ == "__main__":
    run_command(main, Options, "Measure what a slow worker costs the others.")
