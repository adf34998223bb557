"""Trains one model data-parallel, metered: `distsqz ddp --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass

from distsqz.cli.measure import OneModelOptions, measure_one_model


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of `distsqz ddp`."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    measure_one_model("ddp", options)
