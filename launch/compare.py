"""Trains models side by side, metered, and reports what the smaller saves: `python launch/compare.py`."""

from __future__ import annotations

from dataclasses import dataclass

from distsqz.cli import run_command
from launch.measure import MeasureOptions, measure


@dataclass(frozen=True, kw_only=True)
class Options(MeasureOptions):
    """Options of launch/compare.py."""

    models: tuple[str, ...] = ("squeezenet", "alexnet")
    """Models to take turns on the same workers: names of the registry, or package.module:factory."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    measure("compare", options.models, options)


if __name__ == "__main__":
    run_command(
        main, Options, "Train models side by side over Ray and report what synchronising each of them costs."
    )
