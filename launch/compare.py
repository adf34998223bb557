"""Trains models side by side, metered, and reports what the smaller saves: `python launch/compare.py`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from distsqz.cli import run_command
from launch.measure import MeasureOptions, measure, plan
from launch.network import NetworkOptions, lab_for, run_in_lab


@dataclass(frozen=True, kw_only=True)
class Options(MeasureOptions):
    """Options of launch/compare.py."""

    models: tuple[str, ...] = ("squeezenet", "alexnet")
    """Models to take turns on the same workers: names of the registry, or package.module:factory."""
    network: OmitArgPrefixes[NetworkOptions] = field(default_factory=NetworkOptions)


def main(options: Options) -> None:
    """Plans, trains and reports."""
    lab = lab_for(options.network, options.session)
    if lab is None:
        measure("compare", options.models, options)
        return
    with redirect_stdout(sys.stderr):  # an own model may print
        plan(options.models, options)  # what is wrong with the request shows before hosts are made for it
    sys.exit(run_in_lab(lab))


if __name__ == "__main__":
    run_command(
        main, Options, "Train models side by side over Ray and report what synchronising each of them costs."
    )
