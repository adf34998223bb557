"""Choice of the network that a command measures: loopback, a lab made for the run, or a cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distsqz.cluster.options import EMBEDDED, SessionOptions
from distsqz.errors import RequestError
from distsqz.lab import lab
from distsqz.lab.driver import run_on
from distsqz.lab.lab import Lab, LabOptions
from distsqz.lab.privileges import become_root, what_is_missing
from distsqz.lab.rate import parse_rate
from distsqz.lab.ray_nodes import start_ray
from distsqz.metering.wire import emulated_hosts

Network = Literal["auto", "loopback", "lab", "cluster"]

DEFAULT_RATE = "1gbit"

MEMORY_A_HOST = 7 << 29
"""3.5 GiB: a Ray node takes 1 GiB, and a worker that trains AlexNet 1 to 1.5 GiB for each strategy."""


def named_cluster(address: str | None) -> str | None:
    """The address of the Ray to join, if there is one to join; see `distsqz.cluster.ray_cluster`."""
    from distsqz.cluster import ray_cluster  # Ray takes a second to import

    return ray_cluster.named_cluster(address)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Network between the workers."""

    network: Network | None = None
    """Network to measure. lab: emulated hosts with shaped links, made for this run; cluster: the Ray cluster
    to join; loopback: this host alone; auto: a cluster if there is one to join, otherwise a lab, or loopback
    if no lab can be made. By default a lab if --hosts or --rate is given, otherwise a cluster if there is one
    to join, or loopback."""
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


@dataclass(frozen=True, kw_only=True)
class LabByDefault(NetworkOptions):
    """Network between the workers, for commands that make a lab where they can."""

    network: Network = "auto"
    """Network to measure. lab: emulated hosts with shaped links, made for this run; cluster: the Ray cluster
    to join; loopback: this host alone; auto: a cluster if there is one to join, otherwise a lab, or loopback
    if no lab can be made."""


def lab_for(
    options: NetworkOptions, session: SessionOptions, hosts: int | None = None, also: str | None = None
) -> LabOptions | None:
    """The lab to make for a run; None if the run uses a cluster, loopback or the lab that this process is in.

    Args:
        options: the requested network.
        session: the Ray to join, and whether GPUs are used.
        hosts: number of hosts if `options` gives none; by default 4, or 2 if memory is short.
        also: an option of the command, as the user writes it, that only a lab can follow.

    Raises:
        RequestError: the options contradict each other, or describe a lab where none is made.
    """
    described = _described(options) or also
    if emulated_hosts() is not None:  # this process stands on a lab's host
        if described and OWN_LAB not in os.environ:
            raise RequestError(
                f"{described}: this process is on a host of a lab, which has its hosts and rates; "
                "leave it out"
            )
        return None
    if options.network is None and not described:
        return None
    address = named_cluster(session.address)
    _check(options, session, address)
    if elsewhere := _elsewhere(options, session, address):
        if described:
            raise RequestError(f"{described}: is for a lab, and {elsewhere}; leave it out")
        return None
    hosts = options.hosts or hosts or min(4, lab.available_memory() // MEMORY_A_HOST)
    if options.network == "auto" and (reason := _no_lab(hosts, session.gpus)):
        if described:
            raise RequestError(f"{described}: is for a lab, and none is made here: {reason}")
        print(f"measuring over loopback, not in a lab: {reason}", file=sys.stderr)
        return None
    return LabOptions(hosts=max(2, hosts), rate=options.rate or DEFAULT_RATE)


def _described(options: NetworkOptions) -> str | None:
    """The first option that describes a lab, as the user wrote it."""
    if options.hosts:
        return f"--hosts {options.hosts}"
    return f"--rate {options.rate}" if options.rate else None


def _elsewhere(options: NetworkOptions, session: SessionOptions, address: str | None) -> str | None:
    """What is measured in place of a lab, as a sentence; None if a lab is made where that can be."""
    if address:
        return f"this is to be measured over the Ray at {address}"
    if options.network in ("cluster", "loopback"):
        return f"this is to be measured over {options.network}"
    return "--address local is one host" if session.address == EMBEDDED else None


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


def _no_lab(hosts: int, gpus: bool) -> str | None:
    """Why a run with automatic choice of the network does without a lab; None if it uses one."""
    if gpus:
        return "emulated hosts would share the GPUs"
    if hosts < 2:
        return f"two hosts take {2 * MEMORY_A_HOST / 2**30:g} GiB of memory"
    return what_is_missing()


OWN_LAB = "DISTSQZ_OWN_LAB"
"""Variable of a command on a host of the lab that was made for it, as its options asked."""

RUN_FILE = "DISTSQZ_RUN_FILE"
"""Variable that names a file for the path of the run. A command that has it prints no report."""


def run_in_lab(options: LabOptions) -> int:
    """Runs this command again on the head of a lab made for it, and returns its exit status.

    Raises:
        RequestError: the lab cannot be made as asked.
    """
    with _lab(options) as (made, variables):
        return run_on(made, made.hosts[0], [sys.executable, *sys.orig_argv[1:]], variables)


def run_sessions_in_lab(options: LabOptions, rates: Sequence[str], runs: Path) -> tuple[int, list[Path]]:
    """Runs this command again on the head of a lab, once for each of `rates`, to which all links are set.

    Returns:
        The exit status of the first session that failed, or 0, and the run directory of each session before.

    Raises:
        RequestError: the lab cannot be made as asked, or nothing can be written under `runs`.
    """
    done: list[Path] = []
    with _lab(replace(options, rate=rates[0])) as (made, variables), _note_under(runs) as note:
        for index, rate in enumerate(rates):
            made.set_rate(parse_rate(rate))
            print(f"session {index + 1} of {len(rates)}: links at {rate}", file=sys.stderr)
            of_session = {**variables, RUN_FILE: str(note)}
            status = run_on(made, made.hosts[0], [sys.executable, *sys.orig_argv[1:]], of_session)
            if status:
                return status, done
            done.append(Path(note.read_text()))
    return 0, done


@contextlib.contextmanager
def _note_under(runs: Path) -> Iterator[Path]:
    """A file in the directory of the runs, which hosts of a lab share; it is removed in the end.

    Raises:
        RequestError: nothing can be written there.
    """
    note = runs.absolute() / f".session-{secrets.token_hex(3)}"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        raise RequestError(
            f"--runs {runs}: cannot write there ({error.strerror}); name a directory that you can write"
        ) from error
    try:
        yield note
    finally:
        note.unlink(missing_ok=True)


@contextlib.contextmanager
def _lab(options: LabOptions) -> Iterator[tuple[Lab, Mapping[str, str]]]:
    """A lab with a Ray on its hosts, and the variables that commands there need; taken down in the end."""
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
        yield made, {**start_ray(made), OWN_LAB: name}
    finally:
        lab.down(name)
