"""Trains one model through a parameter server, metered: `python launch/ps.py --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from distsqz.cli import run_command
from distsqz.training.options import ServerOptions
from launch.measure import OneModelOptions, measure


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of launch/ps.py."""

    server: OmitArgPrefixes[ServerOptions] = field(default_factory=ServerOptions)


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
