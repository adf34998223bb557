"""Trains one model data-parallel, metered: `python launch/ddp.py --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distsqz.cli import run_command
from launch.measure import MeasureOptions, measure


@dataclass(frozen=True, kw_only=True)
class Options(MeasureOptions):
    """Options of launch/ddp.py."""

    model: str = "squeezenet"
    """squeezenet, squeezenet1_1, squeezenet_simple_bypass, squeezenet_complex_bypass, alexnet, alexnet_bvlc,
    or package.module:factory for a model of your own."""
    checkpoint: Path | None = None
    """Start from the parameters in this file: a published .pth, a .safetensors or an .sqz. What else an .sqz
    tells, such as how images are prepared, is not taken from it."""
    resume: Path | None = None
    """Go on from this checkpoint, or from the newest one of this run directory."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    measure("ddp", [options.model], options, checkpoint=options.checkpoint, resume=options.resume)


if __name__ == "__main__":
    run_command(main, Options, "Train a model data-parallel over Ray and count every byte it sends.")
