"""Trains one model under any strategy, metered: `distsqz train --strategy ddp --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from distsqz.cli.measure_options import OneModelOptions
from distsqz.cli.strategies import StrategyOptions, chosen_strategies


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of `distsqz train`."""

    strategy: str = "ddp"
    """Strategy: a name that `distsqz compare --strategies` takes, or package.module:name of your own."""
    of_strategies: OmitArgPrefixes[StrategyOptions] = field(default_factory=StrategyOptions)


def main(options: Options) -> None:
    """Plans, trains and reports."""
    from distsqz.cli.measure import measure_one_model  # torch and Ray take seconds to import

    (strategy,) = chosen_strategies([options.strategy], options.of_strategies, "--strategy")
    measure_one_model("train", options, strategy)
