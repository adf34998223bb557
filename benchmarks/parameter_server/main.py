"""Our parameter server against others, over emulated links: `python benchmarks/parameter_server/main.py`."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsqz.cli.command import run_command
from distsqz.errors import RunError
from distsqz.lab import lab
from distsqz.lab.lab import Lab, LabOptions
from distsqz.lab.privileges import become_root
from distsqz.lab.ray_nodes import start_ray
from distsqz.strategies.parameter_server.strategy import PULL, PUSH, ParameterServer
from distsqz.strategies.strategy import Sent
from distsqz.theory.placement import Placement, shard_name
from distsqz.theory.prediction import links_busy_s

ALEXNET_BYTES = 244_403_360
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    hosts: int = 4
    """Emulated hosts: a server on one, a worker on each other."""
    rate: str = "1gbit"
    """Of their links."""
    rounds: int = 3
    """Of each program in each turn."""
    turns: int = 3
    """How often the programs take turns."""
    steps: int = 6
    """Of our own in each turn."""
    image_size: int = 64
    """Height and width of an image in pixels."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Makes the lab, lets the programs take turns, takes it down and prints a line a program."""
    name = "b" + secrets.token_hex(3)
    become_root(name)
    made = lab.up(name, LabOptions(hosts=options.hosts, rate=options.rate), wants_ssh=False, owned=True)
    workers = options.hosts - 1
    peers: dict[str, list[float]] = {"plain isend/irecv": [], "torch.distributed.rpc": [], "object store": []}
    ours: dict[str, list[dict[str, Any]]] = {}
    try:
        variables = start_ray(made)
        for _ in range(options.turns):
            peers["plain isend/irecv"] += _ranks(made, "plain.py", options.rounds)
            peers["torch.distributed.rpc"] += _ranks(made, "remote_calls.py", options.rounds)
            peers["object store"] += _on_head(
                made, variables, HERE / "object_store.py", workers, ALEXNET_BYTES, options.rounds
            )
            dedicated = _ps(made, variables, options, workers)
            colocated = _side_by_side(made, variables, options)
            for kind, cells in (("dedicated", dedicated), ("colocated", colocated)):
                for cell in cells:
                    ours.setdefault(f"{kind} {cell['model']} {cell['strategy']}", []).append(cell)
    finally:
        lab.down(name)
    goodput = statistics.median(cell["goodput_bytes_per_s"] for cells in ours.values() for cell in cells)
    full, half = _bounds_s(workers, goodput)
    print(f"AlexNet, {workers} workers, 1 server: full-duplex bound {full:.2f} s, half-duplex {half:.2f} s")
    for peer, seconds in peers.items():
        round_s = statistics.median(seconds)
        print(f"{peer}: {round_s:.2f} s a round, {round_s / full:.2f} of the full-duplex bound")
    for what, cells in ours.items():
        comm, bound, step = (
            statistics.median(cell[key] for cell in cells) for key in ("comm_s", "bound_s", "step_s")
        )
        told = f"{comm / bound:.3f} of its bound {bound:.3f} s; step {step:.3f} s"
        print(f"{what}: communication {comm:.3f} s, {told}")
    alexnet = ours["dedicated alexnet ps"]
    comm = statistics.median(cell["comm_s"] for cell in alexnet)
    print(f"ours over object store: {comm / statistics.median(peers['object store']):.3f}")
    for model in ("alexnet", "squeezenet"):
        steps = [
            ps["step_s"] / ddp["step_s"]
            for ps, ddp in zip(ours[f"colocated {model} ps"], ours[f"colocated {model} ddp"], strict=True)
        ]
        print(f"{model}, colocated: step over DDP's {statistics.median(steps):.3f}")


def _bounds_s(workers: int, goodput: float) -> tuple[float, float]:
    """Least seconds of a step with one dedicated server: pulls beside pushes, and pulls after pushes."""
    placement = Placement(workers=[f"worker{each}" for each in range(workers)], shards=["server"])

    def busy_s(*operations: str) -> float:
        sent = [(Sent(operation, ALEXNET_BYTES, shard_name(0)), 1.0) for operation in operations]
        loads = ParameterServer().load_by_host(dict.fromkeys(range(workers), sent), placement)
        return links_busy_s(loads.values(), goodput, full_duplex=True).low

    return busy_s(PUSH, PULL), busy_s(PUSH) + busy_s(PULL)


def _ranks(made: Lab, script: str, rounds: int) -> list[float]:
    """Runs a script's ranks, one a host; gives the seconds of each round."""
    head = made.hosts[0].address
    ranks = [
        subprocess.Popen(
            made.inside(
                host,
                [
                    sys.executable,
                    *map(str, (HERE / script, rank, len(made.hosts), head, ALEXNET_BYTES, rounds)),
                ],
            ),
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank, host in enumerate(made.hosts)
    ]
    said, _ = ranks[0].communicate()
    if any(rank.wait() for rank in ranks):
        raise RunError(f"{script} failed")
    return list(json.loads(said))


def _on_head(made: Lab, variables: dict[str, str], *command: object) -> Any:
    line = made.inside(
        made.hosts[0],
        ["env", *(f"{key}={value}" for key, value in variables.items()), sys.executable, *map(str, command)],
    )
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"{command[0]} failed")
    return json.loads(done.stdout)


def _ps(made: Lab, variables: dict[str, str], options: Options, workers: int) -> list[dict[str, Any]]:
    """Each model through one dedicated server; the report's cells."""
    cells: list[dict[str, Any]] = []
    for model in ("squeezenet", "alexnet"):
        cells += _on_head(
            made,
            variables,
            *("launch/ps.py", "--model", model, "--workers", workers, "--servers", 1),
            *("--placement", "dedicated", "--image-size", options.image_size),
            *("--steps", options.steps, "--warmup-steps", 1, "--format", "json"),
        )["cells"]
    return cells


def _side_by_side(made: Lab, variables: dict[str, str], options: Options) -> list[dict[str, Any]]:
    """Both models under both strategies, a shard beside each worker; the report's cells."""
    cells: list[dict[str, Any]] = _on_head(
        made,
        variables,
        *("launch/compare.py", "--no-baseline", "--image-size", options.image_size, "--steps", options.steps),
        *("--warmup-steps", 1, "--block-steps", 3, "--format", "json"),
    )["cells"]
    return cells


if __name__ == "__main__":
    run_command(main, Options, "Measure parameter servers against each other and against their bounds.")
