"""Trains one model data-parallel, metered: `distsqz ddp --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from distsqz.cli.measure_options import OneModelOptions
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of `distsqz ddp`."""

    all_reduce: OmitArgPrefixes[AllReduceOptions] = field(default_factory=AllReduceOptions)


def main(options: Options) -> None:
    """Plans, trains and reports."""
    from distsqz.cli.measure import measure_one_model  # torch and Ray take seconds to import

    measure_one_model("ddp", options, AllReduce(options.all_reduce))
