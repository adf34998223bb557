"""Sends models to clients over their links, metered: `distsqz deploy squeezenet --clients 8`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from distsqz import open_run
from distsqz.cli.network import LabByDefault, Network, lab_for, run_in_lab
from distsqz.cli.shipping_progress import ShippingProgress
from distsqz.cluster.deployment import DeploymentOptions, describe, run_deployment
from distsqz.cluster.options import SessionOptions
from distsqz.errors import RequestError, renamed_fields
from distsqz.lab.lab import LabOptions
from distsqz.lab.rate import parse_rate
from distsqz.metering.schema import TABLES
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import print_report
from distsqz.report.section import Format
from distsqz.runs.reader import Run
from distsqz.runs.writer import RunWriter
from distsqz.shipping.files import ModelRequest, open_files, parse_models

CLIENT_RATE, HEAD_RATE = "10mbit", "1gbit"


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """Network between the head, which sends, and the clients."""

    network: Network = "auto"
    """Network to measure. lab: emulated hosts with shaped links, made for this run, one for the head and one
    for each client; cluster: the Ray cluster to join; loopback: this host alone; auto: a cluster if there is
    one to join, otherwise a lab, or loopback if no lab can be made."""
    rate: str | None = None
    """Rate of each client's link in the lab, in each direction, in kbit, mbit or gbit. By default 10mbit."""
    head_rate: str | None = None
    """Rate of the head's link in the lab, which carries a copy for every client. By default 1gbit. The
    maximum, 30gbit, does not limit the transfer."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if self.rate is not None:
            parse_rate(self.rate)
        if self.head_rate is not None:
            with renamed_fields(rate="head_rate"):
                parse_rate(self.head_rate)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz deploy`."""

    models: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    """What to send: the name of a registered model (its fp32 weights), a checkpoint (.pt or .pth: its
    weights), any other file such as an .sqz archive (unchanged), or OLD..NEW, two files of which only the
    difference is sent. Clients that do not hold OLD yet receive it first."""
    deployment: OmitArgPrefixes[DeploymentOptions] = field(default_factory=DeploymentOptions)
    links: OmitArgPrefixes[LinkOptions] = field(default_factory=LinkOptions)
    runs: Path = Path("runs")
    """Directory in which the run directory is created."""
    format: Format = "table"
    """Format of the table on stdout."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


def main(options: Options) -> None:
    """Prepares the files, sends them and prints the report."""
    if not options.models:
        raise RequestError("MODEL: none given; name at least one, such as squeezenet")
    requests = parse_models(options.models)
    lab = _lab(options)
    if lab is None:
        with redirect_stdout(sys.stderr):  # Ray may print; stdout is for results
            run = _deploy(requests, options)
        print_report([MeasuredRun(run)], options.format)
        return
    with open_files(requests):  # what is wrong with the request shows before hosts are made for it
        pass
    sys.exit(run_in_lab(lab))


def _lab(options: Options) -> LabOptions | None:
    """The lab to make, with a host for the head and one for each client; None to run without a lab."""
    links, address = options.links, options.deployment.address
    network = LabByDefault(network=links.network, rate=links.rate)
    head_rate = f"--head-rate {links.head_rate}" if links.head_rate else None
    session = SessionOptions(address=address)
    lab = lab_for(network, session, hosts=options.deployment.clients + 1, also=head_rate)
    return lab and replace(lab, rate=links.rate or CLIENT_RATE, head_rate=links.head_rate or HEAD_RATE)


def _deploy(requests: list[ModelRequest], options: Options) -> Run:
    clients = options.deployment.clients
    with open_files(requests) as shipped_files:
        entries = [describe(shipped, clients) for shipped in shipped_files]
        sizes = {shipped.name: shipped.size_bytes for shipped in shipped_files}
        with (
            RunWriter.create(
                options.runs, "deploy", sys.argv, asdict(options), entries, tables=TABLES
            ) as writer,
            ShippingProgress(sizes, clients, heading=f"run: {writer.path}") as progress,
        ):
            run_deployment(shipped_files, options.deployment, writer, progress)
    return open_run(writer.path)
