"""Trains one model data-parallel, metered: `python launch/ddp.py --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass

from distsqz.cli import run_command
from launch.measure import OneModelOptions, measure


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of launch/ddp.py."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    measure("ddp", [options.model], options, checkpoint=options.checkpoint, resume=options.resume)


if __name__ == "__main__":
    run_command(main, Options, "Train a model data-parallel over Ray and count every byte it sends.")
