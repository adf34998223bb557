"""Trains one model through a parameter server, metered: `distsqz ps --model squeezenet`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from distsqz.cli.measure_options import OneModelOptions
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer


@dataclass(frozen=True, kw_only=True)
class Options(OneModelOptions):
    """Options of `distsqz ps`."""

    server: OmitArgPrefixes[ServerOptions] = field(default_factory=ServerOptions)


def main(options: Options) -> None:
    """Plans, trains and reports."""
    from distsqz.cli.measure import measure_one_model  # torch and Ray take seconds to import

    measure_one_model("ps", options, ParameterServer(options.server))
