"""Trains one model data-parallel, metered: `distsqz ddp --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass

from distsqz.cli.measure import OneModelOptions, measure


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of `distsqz ddp`."""


def main(options: Options) -> None:
    """Plans, trains and reports."""
    measure("ddp", [options.model], options, checkpoint=options.checkpoint, resume=options.resume)
