"""Which network a command measures: loopback, the links of a lab made for it, or those of a cluster."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from typing import Literal

from distsqz.errors import RequestError
from distsqz.lab import lab
from distsqz.lab.driver import run_on
from distsqz.lab.lab import LabOptions
from distsqz.lab.privileges import become_root, what_is_missing
from distsqz.lab.ray_nodes import start_ray
from distsqz.metering.wire import emulated_rates
from distsqz.orchestration.cluster import EMBEDDED, named_cluster
from distsqz.orchestration.session import SessionOptions

Network = Literal["auto", "loopback", "lab", "cluster"]

MEMORY_A_HOST = 5 << 29
"""2.5 GiB: a Ray node takes 1, a worker that trains AlexNet 1.5."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What lies between the workers."""

    network: Network = "auto"
    """lab: emulated hosts with shaped links, made for this run; auto: a cluster if --address names one,
    else a lab, else loopback."""
    hosts: int | None = None
    """Of the lab; by default 4, or 2 where memory is short."""
    rate: str = "1gbit"
    """Of each link of the lab, each way: kbit, mbit or gbit."""


def lab_for(options: NetworkOptions, session: SessionOptions) -> LabOptions | None:
    """The lab that is to be made; None to measure from where this process stands.

    Raises:
        RequestError: the options contradict each other, or a lab is asked for and cannot be made.
    """
    address = named_cluster(session.address)
    if emulated_rates() is not None:  # this process stands on a lab's host
        return None
    if options.network == "cluster" and not address:
        raise RequestError("--network cluster: name it with --address HOST:PORT (or RAY_ADDRESS)")
    if options.network in ("lab", "loopback") and address:
        raise RequestError(
            f"--network {options.network}: a Ray is there already, at {address}; "
            "leave --network out, or stop it"
        )
    if options.network in ("cluster", "loopback") or address or session.address == EMBEDDED:
        return None
    hosts = options.hosts or min(4, lab.available_memory() // MEMORY_A_HOST)
    if options.network == "lab":
        return LabOptions(hosts=max(2, hosts), rate=options.rate)
    reason = what_is_missing()
    if session.gpus:
        reason = "emulated hosts would share the GPUs"
    if hosts < 2:
        reason = f"two hosts take {2 * MEMORY_A_HOST / 2**30:g} GiB of memory"
    if reason:
        print(f"measuring over loopback, not a lab: {reason}", file=sys.stderr)
        return None
    return LabOptions(hosts=min(hosts, 4) if options.hosts is None else hosts, rate=options.rate)


def run_in_lab(options: LabOptions) -> int:
    """Runs this very command once more on the head of a lab made for it; gives its exit status.

    Raises:
        RequestError: the lab cannot be made as asked.
    """
    name = "t" + secrets.token_hex(3)
    become_root(name)
    try:
        made = lab.up(name, options, wants_ssh=False, owned=True)
        print(
            f"lab: {options.hosts} emulated hosts, links shaped to {options.rate} each way; "
            "starting Ray on them",
            file=sys.stderr,
        )
        variables = start_ray(made)
        return run_on(made, made.hosts[0], [sys.executable, *sys.orig_argv[1:]], variables)
    finally:
        lab.down(name)
