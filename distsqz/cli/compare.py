"""Trains models side by side, metered, and reports what the smaller saves: `distsqz compare`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from typing import Literal

from tyro.conf import OmitArgPrefixes, UseAppendAction

from distsqz.cli.measure import MeasureOptions, measure, plan
from distsqz.cli.network import NetworkOptions, lab_for, run_in_lab
from distsqz.cli.vary import parse_vary
from distsqz.errors import RequestError
from distsqz.training.options import ServerOptions


@dataclass(frozen=True, kw_only=True)
class Options(MeasureOptions):
    """Options of `distsqz compare`."""

    models: tuple[str, ...] = ("squeezenet", "alexnet")
    """Models that take turns on the same workers: names as for `distsqz ddp --model`, or
    package.module:factory."""
    strategies: tuple[Literal["ddp", "ps"], ...] = ("ddp", "ps")
    """Strategies: ddp is all-reduce, ps is a parameter server. Each model is trained under each strategy."""
    vary: UseAppendAction[tuple[str, ...]] = ()
    """Values of an option to measure side by side, for example bucket_mb=1,25. Any option of the model, of
    training or of the parameter server can be varied. If given several times, all combinations are
    measured."""
    baseline: bool = True
    """Also train each model on one worker by itself, to tell what several workers gain over one machine."""
    server: OmitArgPrefixes[ServerOptions] = field(default_factory=ServerOptions)
    network: OmitArgPrefixes[NetworkOptions] = field(default_factory=NetworkOptions)


def main(options: Options) -> None:
    """Plans, trains and reports."""
    asked = strategies(options)
    vary = parse_vary(options.vary, options.strategies)
    lab = lab_for(options.network, options.session)
    if lab is None:
        measure("compare", options.models, options, asked, vary=vary, baseline=options.baseline)
        return
    with redirect_stdout(sys.stderr):  # a model of the user's may print
        # What is wrong with the request shows before hosts are made for it.
        plan(options.models, options, asked, vary=vary, baseline=options.baseline)
    sys.exit(run_in_lab(lab))


def strategies(options: Options) -> list[ServerOptions | None]:
    """Server options of each strategy in `--strategies`; None for all-reduce."""
    if len(set(options.strategies)) < len(options.strategies) or not options.strategies:
        raise RequestError(f"--strategies {' '.join(options.strategies)}: name ddp, ps or both, each once")
    if "ps" not in options.strategies and options.server != ServerOptions():
        by_default = asdict(ServerOptions()).items()
        name, value = next(each for each in asdict(options.server).items() if each not in by_default)
        raise RequestError(
            f"--{name.replace('_', '-')} {value}: is for a parameter server; "
            "add ps to --strategies or leave it out"
        )
    return [None if name == "ddp" else options.server for name in options.strategies]
