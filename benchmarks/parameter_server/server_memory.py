"""How much memory a server takes, by workers: `python benchmarks/parameter_server/server_memory.py`.

Over loopback: what a server holds does not depend on the link.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from distsqz import open_run
from distsqz.cli.command import run_command
from distsqz.errors import RunError
from distsqz.runs.reader import Run

OWN_COPIES = 3
"""Of the parameters: they themselves, their momentum, the sums under way."""
ALLOWED_MB = 400
"""Beyond these: Python, torch and Ray, and messages under way."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    model: str = "alexnet"
    """Whose parameters the servers own."""
    workers: tuple[int, ...] = (2, 4, 8)
    """How many, in turn."""
    servers: int = 1
    """That own the parameters together."""
    steps: int = 4
    """Of each worker."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Trains with each number of workers and prints a line each."""
    for workers in options.workers:
        (cell,) = _run(options, workers).cells
        peak_bytes = max(cell["server_peak_rss_bytes"])
        owned_bytes = cell["payload_bytes"] / options.servers
        beyond_mb = (peak_bytes - OWN_COPIES * owned_bytes) / 1e6
        print(
            f"{workers} workers: peak {peak_bytes / 1e6:.0f} MB, {OWN_COPIES} x {owned_bytes / 1e6:.0f} MB "
            f"and {beyond_mb:.0f} MB (at most {ALLOWED_MB})",
            flush=True,
        )


def _run(options: Options, workers: int) -> Run:
    command = [
        *(sys.executable, "launch/ps.py", "--model", options.model, "--workers", str(workers)),
        *("--servers", str(options.servers), "--image-size", "64", "--batch-size", "1"),
        *("--steps", str(options.steps), "--warmup-steps", "0", "--evaluate", "never"),
        *("--num-classes", "1000", "--collective-timeout-s", "300"),
        *("--address", "local", "--format", "json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(done.stderr.splitlines()[-1] if done.stderr else "training failed")
    return open_run(Path(json.loads(done.stdout)["runs"][0]["path"]))


if __name__ == "__main__":
    run_command(main, Options, "Measure how much memory a server takes.")
