"""Trains one model data-parallel, metered: `distsqz ddp --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass

from distsqz.cli.measure_options import OneModelOptions


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of `distsqz ddp`."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    from distsqz.cli.measure import measure_one_model  # torch and Ray take seconds to import

    measure_one_model("ddp", options)
