"""Trains models side by side, metered, and reports what the smaller saves: `distsqz compare`."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace

from tyro.conf import OmitArgPrefixes, UseAppendAction

from distsqz.cli.measure_options import MeasureOptions
from distsqz.cli.network import DEFAULT_RATE, RUN_FILE, LabByDefault, lab_for, run_in_lab, run_sessions_in_lab
from distsqz.cli.strategies import StrategyOptions, chosen_strategies
from distsqz.errors import RequestError
from distsqz.lab.rate import parse_rate


@dataclass(frozen=True, kw_only=True)
class Options(MeasureOptions):
    """Options of `distsqz compare`."""

    models: tuple[str, ...] = ("squeezenet", "alexnet")
    """Models that take turns on the same workers: names as for `distsqz ddp --model`, or
    package.module:factory."""
    strategies: tuple[str, ...] = ("ddp", "ps")
    """Strategies: ddp is all-reduce, ps is a parameter server, package.module:name is one of your own. Each
    model is trained under each strategy."""
    vary: UseAppendAction[tuple[str, ...]] = ()
    """Values of an option to measure side by side, for example bucket_mb=1,25. Any option of the model, of
    training or of a strategy can be varied. If given several times, all combinations are
    measured."""
    baseline: bool = True
    """Whether to train each model on one worker by itself too, which tells what several workers gain over one
    machine."""
    of_strategies: OmitArgPrefixes[StrategyOptions] = field(default_factory=StrategyOptions)
    network: OmitArgPrefixes[LabByDefault] = field(default_factory=LabByDefault)
    rates: tuple[str, ...] = ()
    """Rates of the lab's links that are measured in turn, such as 100mbit 1gbit: a session at each, in the
    order A B, B A, and so on."""
    sessions: int | None = None
    """Number of sessions, or of sessions at each rate. The report pools them. By default 1, or 2 if rates
    are given."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range, or for options that contradict each other."""
        if self.sessions is not None and self.sessions < 1:
            raise RequestError(f"--sessions {self.sessions}: must be at least 1")
        if len(set(self.rates)) < len(self.rates):
            raise RequestError(f"--rates {' '.join(self.rates)}: name each rate once")
        if self.rates and self.network.rate is not None:
            raise RequestError(
                f"--rate {self.network.rate}: --rates gives the rates of the links; leave it out"
            )
        for rate in self.rates:
            parse_rate(rate)

    def turns(self) -> list[str]:
        """The rate of the links in each session, in order."""
        from distsqz.training.session import interleaved  # imports torch

        rates = self.rates or (self.network.rate or DEFAULT_RATE,)
        sessions = self.sessions or (2 if self.rates else 1)
        return [rates[index] for index in interleaved(len(rates), sessions)]


def main(options: Options) -> None:
    """Plans, trains and reports."""
    from distsqz.cli.measure import measure, plan, print_pooled  # torch and Ray take seconds to import
    from distsqz.cli.vary import parse_vary

    asked = chosen_strategies(options.strategies, options.of_strategies)
    vary = parse_vary(options.vary, asked)
    rates = f"--rates {' '.join(options.rates)}" if options.rates else None
    lab = lab_for(options.network, options.session, also=rates)
    turns = options.turns()
    if lab is None:
        one = RUN_FILE in os.environ  # the command that made this lab makes the other sessions
        sessions = 1 if one else len(turns)
        measure(
            "compare", options.models, options, asked,
            vary=vary, baseline=options.baseline, sessions=sessions,
        )  # fmt: skip
        return
    with redirect_stdout(sys.stderr):  # a model of the user's may print
        # What is wrong with the request shows before hosts are made for it.
        plan(options.models, options, asked, vary=vary, baseline=options.baseline)
    if len(turns) == 1 and not options.rates:
        sys.exit(run_in_lab(replace(lab, rate=turns[0])))
    status, paths = run_sessions_in_lab(lab, turns, options.runs)
    if paths:
        print_pooled(paths, options.format)
    sys.exit(status)
