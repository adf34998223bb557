"""Whether the views of the bytes agree on any link: `python benchmarks/link/views.py`.

In labs of several sizes, at several rates and with one or more workers on a host, a model is trained under
all-reduce and through a parameter server. A line is printed for each cell: TCP against what is predicted, the
wire against TCP, and the parameter server against all-reduce beside what theory says of that.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd

from distsqz.cli.command import run_command
from distsqz.errors import RunError
from distsqz.lab import lab
from distsqz.lab.lab import Lab, LabOptions
from distsqz.lab.privileges import become_root
from distsqz.lab.rate import parse_rate
from distsqz.lab.ray_nodes import start_ray
from distsqz.report.bounds import load_by_host
from distsqz.report.formats import render

MODEL = "benchmarks.link.four_megabytes:FourMegabytes"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    hosts: tuple[int, ...] = (2, 3, 4)
    """Numbers of emulated hosts."""
    workers_per_host: tuple[int, ...] = (1, 2, 3)
    """Numbers of workers on each host."""
    rates: tuple[str, ...] = ("8mbit", "20mbit", "100mbit", "1gbit")
    """Rates of every emulated link, in each direction."""
    steps: int = 4
    """Measured steps of each cell, in blocks of two."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Makes the labs one after the other, measures in each, and prints the table as Markdown."""
    name = "v" + secrets.token_hex(3)
    become_root(name)
    rows: list[dict[str, Any]] = []
    for hosts in options.hosts:
        made = lab.up(name, LabOptions(hosts=hosts, rate=options.rates[0]), wants_ssh=False, owned=True)
        try:
            variables = start_ray(made, cpus_per_host=max(options.workers_per_host))
            for rate in options.rates:
                made.set_rate(parse_rate(rate))
                for row in _measure_all(made, variables, options):
                    rows.append({"hosts": hosts, "rate": rate, **row})
                    print(rows[-1], file=sys.stderr, flush=True)
        finally:
            lab.down(name)
    print(render(pd.DataFrame(rows, dtype=object), "markdown"))


def _measure_all(made: Lab, variables: dict[str, str], options: Options) -> list[dict[str, Any]]:
    """A row for each cell at the lab's rates."""
    rows = []
    for per_host in options.workers_per_host:
        workers = per_host * len(made.hosts)
        report = _train(
            made, variables, options, ["launch/compare.py", "--no-baseline", "--models", MODEL], workers
        )
        rows += [_row(report, cell, per_host, "colocated") for cell in report["cells"]]
    dedicated = ["launch/ps.py", "--model", MODEL, "--placement", "dedicated"]
    report = _train(made, variables, options, dedicated, len(made.hosts) - 1)
    return [*rows, *(_row(report, cell, 1, "dedicated") for cell in report["cells"])]


def _train(
    made: Lab, variables: dict[str, str], options: Options, command: list[str], workers: int
) -> dict[str, Any]:
    """The report on a run of so many workers."""
    words = [
        *("env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, *command),
        *("--workers", str(workers), "--image-size", "64", "--batch-size", "2", "--num-classes", "10"),
        *("--threads", "1", "--steps", str(options.steps), "--warmup-steps", "1", "--block-steps", "2"),
        *("--collective-timeout-s", "300", "--format", "json"),
    ]
    done = subprocess.run(made.inside(made.hosts[0], words), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"training failed: {' '.join(command)}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _row(report: dict[str, Any], cell: dict[str, Any], per_host: int, placement: str) -> dict[str, Any]:
    comparisons = report["strategy_comparisons"] if cell["strategy"] == "ps" else []
    over = comparisons[0]["bytes_ratio"] if comparisons else None
    return {
        "workers_per_host": per_host,
        "strategy": cell["strategy"] if cell["strategy"] == "ddp" else f"ps {placement}",
        "predicted_tx_bytes": cell["predicted_tx_bytes"],
        "tcp_vs_predicted": cell["tcp_vs_predicted"],
        "local_vs_predicted": _excess(cell["tcp_local_tx_bytes"], cell["predicted_local_tx_bytes"]),
        "wire_vs_tcp": cell["wire_vs_tcp"],
        "over_ddp_ratio": over,
        "over_ddp_by_theory_ratio": _by_theory(report) if over else None,
        "dropped_packets": cell["queue_dropped_packets"],
        "warnings": len(report["runs"][0]["warnings"]),
    }


def _by_theory(report: dict[str, Any]) -> float:
    """What all links carry for the parameter server over what they carry for all-reduce."""
    total = {
        cell["strategy"]: sum(load.tx_bytes for load in (load_by_host(cell) or {}).values())
        for cell in report["cells"]
    }
    return total["ps"] / total["ddp"]


def _excess(measured: float | None, predicted: float | None) -> float | None:
    return measured / predicted - 1 if measured and predicted else None


if __name__ == "__main__":
    run_command(main, Options, "Measure whether the views of the bytes agree on links of any rate.")
