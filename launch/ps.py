"""Trains one model through a parameter server, metered: `python launch/ps.py --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from distsqz.cli import run_command
from distsqz.training.options import ServerOptions
from launch.measure import MeasureOptions, measure


@dataclass(frozen=True, kw_only=True)
class Options(MeasureOptions):
    """Options of launch/ps.py."""

    model: str = "squeezenet"
    """squeezenet, squeezenet1_1, squeezenet_simple_bypass, squeezenet_complex_bypass, alexnet, alexnet_bvlc,
    or package.module:factory for a model of your own."""
    server: OmitArgPrefixes[ServerOptions] = field(default_factory=ServerOptions)
    checkpoint: Path | None = None
    """Start from the parameters in this file: a published .pth, a .safetensors or an .sqz. What else an .sqz
    tells, such as how images are prepared, is not taken from it."""
    resume: Path | None = None
    """Go on from this checkpoint, or from the newest one of this run directory."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    measure(
        "ps",
        [options.model],
        options,
        strategies=[options.server],
        checkpoint=options.checkpoint,
        resume=options.resume,
    )


if __name__ == "__main__":
    run_command(
        main, Options, "Train a model through a parameter server over Ray and count every byte it sends."
    )
