"""Sends models to clients over their links, metered: `distsqz deploy squeezenet --clients 8`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from distsqz.cli.network import Network, NetworkOptions, lab_for, run_in_lab
from distsqz.cli.shipping_progress import ShippingProgress
from distsqz.cluster.deployment import DeploymentOptions, describe, run_deployment
from distsqz.cluster.ray_cluster import named_cluster
from distsqz.cluster.session import SessionOptions
from distsqz.errors import RequestError
from distsqz.lab.lab import LabOptions
from distsqz.lab.rate import parse_rate
from distsqz.metering.wire import emulated_hosts
from distsqz.report.formats import Format
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import print_report
from distsqz.runs import Run, RunWriter
from distsqz.shipping.cargo import Wanted, packed, parse

CLIENT_RATE, HEAD_RATE = "10mbit", "1gbit"


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """What lies between head and clients."""

    network: Network = "auto"
    """lab: emulated hosts with shaped links, made for this run, one for the head and one a client; auto: a
    cluster if there is one to join, else a lab, else loopback."""
    rate: str | None = None
    """Of each client's link in the lab, each way: kbit, mbit or gbit; by default 10mbit."""
    head_rate: str | None = None
    """Of the head's link in the lab, which carries a copy for every client; by default 1gbit. 30gbit, the
    most, is as good as unshaped."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        for option, rate in (("--rate", self.rate), ("--head-rate", self.head_rate)):
            if rate is not None:
                parse_rate(rate, option)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz deploy`."""

    models: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    """Of each: a name of the registry (its fp32 weights), a checkpoint (.pt, .pth: its weights), any other
    file such as an .sqz archive (as it is), or OLD..NEW of two files: only the difference is sent, to clients
    that hold OLD; they are sent OLD first if it has not been sent before."""
    deployment: OmitArgPrefixes[DeploymentOptions] = field(default_factory=DeploymentOptions)
    links: OmitArgPrefixes[LinkOptions] = field(default_factory=LinkOptions)
    runs: Path = Path("runs")
    """Where the run directory is made."""
    format: Format = "table"
    """Of the table on stdout."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Packs, sends and reports."""
    if not options.models:
        raise RequestError("MODEL: none given; name at least one, such as squeezenet")
    wanted = parse(options.models)
    lab = _lab(options)
    if lab is None:
        with redirect_stdout(sys.stderr):  # Ray may print; stdout is for results
            run = _deploy(wanted, options)
        print_report([MeasuredRun(run)], options.format)
        return
    with packed(wanted):  # what is wrong with the request shows before hosts are made for it
        pass
    sys.exit(run_in_lab(lab))


def _lab(options: Options) -> LabOptions | None:
    """The lab to be made: a host for the head, and one for each client."""
    links, address = options.links, options.deployment.address
    network = NetworkOptions(network=links.network, rate=links.rate)
    lab = lab_for(network, SessionOptions(address=address), hosts=options.deployment.clients + 1)
    elsewhere = links.network in ("cluster", "loopback") or named_cluster(address)
    if links.head_rate and elsewhere and emulated_hosts() is None:
        raise RequestError(f"--head-rate {links.head_rate}: is for a lab; leave it out, or --network lab")
    return lab and replace(lab, rate=links.rate or CLIENT_RATE, head_rate=links.head_rate or HEAD_RATE)


def _deploy(wanted: list[Wanted], options: Options) -> Run:
    clients = options.deployment.clients
    with packed(wanted) as cargos:
        entries = [describe(cargo, clients) for cargo in cargos]
        sizes = {cargo.name: cargo.size_bytes for cargo in cargos}
        with (
            RunWriter.create(options.runs, "deploy", sys.argv, asdict(options), entries) as writer,
            ShippingProgress(sizes, clients, heading=f"run: {writer.path}") as progress,
        ):
            run_deployment(cargos, options.deployment, writer, progress)
    return Run(writer.path)
