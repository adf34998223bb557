"""How much of a link all-reduce and DDP use, in a lab at two rates: `python benchmarks/link/main.py`."""

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
from distsqz.lab.rate import parse_rate
from distsqz.lab.ray_nodes import start_ray
from distsqz.theory.collectives import bus_bandwidth

ALEXNET_BYTES = 244_403_360
RAW = Path(__file__).with_name("raw_all_reduce.py")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    hosts: int = 4
    """Emulated hosts, a worker on each."""
    rate: str = "1gbit"
    """Of their links."""
    slow_rate: str = "100mbit"
    """Of their links, the second time."""
    steps: int = 10
    """Of each model at the first rate."""
    slow_steps: int = 2
    """Of each model at the second."""
    image_size: int = 64
    """Height and width of an image in pixels."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Makes the lab, measures, takes it down and prints a line a figure."""
    name = "b" + secrets.token_hex(3)
    become_root(name)
    made = lab.up(name, LabOptions(hosts=options.hosts, rate=options.rate), wants_ssh=False, owned=True)
    try:
        _raw(made, options.rate, options.steps)
        variables = start_ray(made)
        fast = _train(made, variables, options, options.steps)
        made.set_rate(parse_rate(options.slow_rate))
        _raw(made, options.slow_rate, options.slow_steps)
        slow = _train(made, variables, options, options.slow_steps)
    finally:
        lab.down(name)
    for model in fast:
        for rate, cells in ((options.rate, fast), (options.slow_rate, slow)):
            cell = cells[model]
            print(
                f"{model}, DDP at {rate}: busbw {cell['busbw_bytes_per_s'] * 8e-6:.0f} Mbit/s, "
                f"{cell['busbw_vs_goodput']:.3f} of goodput; step {cell['step_s']:.3f} s, "
                f"wire over TCP bytes {cell['wire_vs_tcp']:.4f}"
            )
        ratio = fast[model]["busbw_bytes_per_s"] / slow[model]["busbw_bytes_per_s"]
        print(f"{model}: communication time at {options.slow_rate} over {options.rate}: {ratio:.2f}")


def _raw(made: Lab, rate: str, repeats: int) -> None:
    """A bare all-reduce of AlexNet's gradients over every host."""
    world_size, head = len(made.hosts), made.hosts[0].address
    ranks = [
        subprocess.Popen(
            made.inside(
                host,
                [
                    sys.executable,
                    *map(str, (RAW, rank, world_size, host.address, head, ALEXNET_BYTES, repeats)),
                ],
            ),
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank, host in enumerate(made.hosts)
    ]
    said, _ = ranks[0].communicate()
    if any(rank.wait() for rank in ranks):
        raise RunError("the bare all-reduce failed")
    found = json.loads(said)
    busbw = bus_bandwidth(ALEXNET_BYTES, world_size, statistics.median(found["all_reduce_s"]))
    goodput = min(found["goodput_bytes_per_s"])
    print(
        f"bare all-reduce at {rate}: busbw {busbw * 8e-6:.0f} Mbit/s, {busbw / goodput:.3f} of goodput "
        f"({goodput * 8e-6:.0f} Mbit/s)",
        flush=True,
    )


def _train(made: Lab, variables: dict[str, str], options: Options, steps: int) -> dict[str, Any]:
    """Both models side by side; the report's cells by model."""
    command = [
        *(sys.executable, "launch/compare.py", "--no-baseline", "--strategies", "ddp", "--format", "json"),
        *("--image-size", str(options.image_size)),
        *("--steps", str(steps), "--warmup-steps", "1", "--block-steps", "2"),
    ]
    line = made.inside(
        made.hosts[0], ["env", *(f"{key}={value}" for key, value in variables.items()), *command]
    )
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RunError("training failed")
    return {cell["model"]: cell for cell in json.loads(done.stdout)["cells"]}


if __name__ == "__main__":
    run_command(main, Options, "Measure how much of a link all-reduce and DDP use.")
