"""Choice of the network that a command measures: loopback, a lab made for the run, or a cluster."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from typing import Literal

from distsqz.cluster.ray_cluster import EMBEDDED, named_cluster
from distsqz.cluster.session import SessionOptions
from distsqz.errors import RequestError
from distsqz.lab import lab
from distsqz.lab.driver import run_on
from distsqz.lab.lab import LabOptions
from distsqz.lab.privileges import become_root, what_is_missing
from distsqz.lab.rate import parse_rate
from distsqz.lab.ray_nodes import start_ray
from distsqz.metering.wire import emulated_hosts

Network = Literal["auto", "loopback", "lab", "cluster"]

MEMORY_A_HOST = 7 << 29
"""3.5 GiB: a Ray node takes 1 GiB, and a worker that trains AlexNet 1 to 1.5 GiB for each strategy."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Network between the workers."""

    network: Network = "auto"
    """Network to measure. lab: emulated hosts with shaped links, made for this run; cluster: the Ray cluster
    to join; loopback: this host alone; auto: a cluster if there is one to join, otherwise a lab, or loopback
    if no lab can be made."""
    hosts: int | None = None
    """Number of emulated hosts in the lab. By default 4, or 2 if memory is short."""
    rate: str | None = None
    """Rate of every link of the lab, in each direction, in kbit, mbit or gbit. By default 1gbit."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if self.hosts is not None and self.hosts < 2:
            raise RequestError(f"--hosts {self.hosts}: a network takes at least 2")
        if self.rate is not None:
            parse_rate(self.rate)


def lab_for(options: NetworkOptions, session: SessionOptions, hosts: int | None = None) -> LabOptions | None:
    """The lab to make for a run; None if the run uses a cluster, loopback or the lab that this process is in.

    Args:
        options: the requested network.
        session: the Ray to join, and whether GPUs are used.
        hosts: number of hosts if `options` gives none; by default 4, or 2 if memory is short.

    Raises:
        RequestError: the options contradict each other.
    """
    if emulated_hosts() is not None:  # this process stands on a lab's host
        return None
    address = named_cluster(session.address)
    _check(options, session, address)
    if options.network in ("cluster", "loopback") or address or session.address == EMBEDDED:
        return None
    hosts = options.hosts or hosts or min(4, lab.available_memory() // MEMORY_A_HOST)
    if options.network == "auto" and (reason := _no_lab(hosts, session.gpus)):
        print(f"measuring over loopback, not in a lab: {reason}", file=sys.stderr)
        return None
    return LabOptions(hosts=max(2, hosts), rate=options.rate or "1gbit")


def _check(options: NetworkOptions, session: SessionOptions, address: str | None) -> None:
    network = options.network
    if network == "cluster" and not address:
        raise RequestError("--network cluster: name it with --address HOST:PORT (or RAY_ADDRESS)")
    if network in ("lab", "loopback") and address:
        raise RequestError(
            f"--network {network}: a Ray is there already, at {address}; leave --network out to join it"
            + (", or add --address local" if network == "loopback" else ", or stop it")
        )
    if network == "lab" and session.address == EMBEDDED:
        raise RequestError("--address local: is one host; leave it out, or --network lab")
    if (options.hosts or options.rate) and (network in ("cluster", "loopback") or address):
        option = f"--hosts {options.hosts}" if options.hosts else f"--rate {options.rate}"
        raise RequestError(f"{option}: is for a lab, and this is to be measured over {address or network}")


def _no_lab(hosts: int, gpus: bool) -> str | None:
    """Why a run with automatic choice of the network does without a lab; None if it uses one."""
    if gpus:
        return "emulated hosts would share the GPUs"
    if hosts < 2:
        return f"two hosts take {2 * MEMORY_A_HOST / 2**30:g} GiB of memory"
    return what_is_missing()


def run_in_lab(options: LabOptions) -> int:
    """Runs this command again on the head of a lab made for it, and returns its exit status.

    Raises:
        RequestError: the lab cannot be made as asked.
    """
    name = "t" + secrets.token_hex(3)
    become_root(name)
    try:
        made = lab.up(name, options, wants_ssh=False, owned=True)
        print(
            f"lab: {options.hosts} emulated hosts, links shaped to {options.rate} each way"
            + (f", the head's to {options.head_rate}" if options.head_rate else "")
            + "; starting Ray on them",
            file=sys.stderr,
        )
        variables = start_ray(made)
        return run_on(made, made.hosts[0], [sys.executable, *sys.orig_argv[1:]], variables)
    finally:
        lab.down(name)
