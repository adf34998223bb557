"""Emulated hosts and shaped links: `distsqz lab up|status|rate|cut|heal|run|ssh|down`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import pandas as pd
from tyro.conf import OmitArgPrefixes, Positional, subcommand

from distsqz.cli.command import run_command
from distsqz.cli.subcommands import SUBCOMMANDS
from distsqz.errors import RequestError
from distsqz.lab import lab, ssh
from distsqz.lab.lab import LabOptions
from distsqz.lab.privileges import become_root, is_true_root
from distsqz.lab.rate import format_rate, parse_rate
from distsqz.lab.state import DEFAULT_NAME
from distsqz.report.formats import render
from distsqz.report.section import Format


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every subcommand."""

    name: str = DEFAULT_NAME
    """Name of the lab. Several labs may be up at the same time."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


@dataclass(frozen=True, kw_only=True)
class Up(Common):
    """Make a lab, or repair one after a crash."""

    lab: OmitArgPrefixes[LabOptions] = field(default_factory=LabOptions)
    subnet: str | None = None
    """Subnet of the lab, a /24. By default 198.18.0.0/24 for the default lab and an unused subnet for
    others."""
    ssh: bool = True
    """Run an SSH server on every host (only as root)."""


@dataclass(frozen=True, kw_only=True)
class Status(Common):
    """Show hosts, links and the bytes that the links have carried."""

    format: Format = "table"
    """Format of the table on stdout."""


@dataclass(frozen=True, kw_only=True)
class Rate(Common):
    """Change the rate of links, while they are in use too."""

    rate: Positional[str]
    """Rate in each direction, in kbit, mbit or gbit (for example 100mbit)."""
    host: str | None = None
    """Host whose link is changed (for example h2). By default all links are changed."""


@dataclass(frozen=True, kw_only=True)
class OneHost(Common):
    """Options of every subcommand that acts on one host."""

    host: Positional[str]
    """Name of the host, for example h3."""


@dataclass(frozen=True, kw_only=True)
class Cut(OneHost):
    """Disconnect a host: its link drops all packets."""


@dataclass(frozen=True, kw_only=True)
class Heal(OneHost):
    """Connect a host again that was disconnected."""


@dataclass(frozen=True, kw_only=True)
class Run(OneHost):
    """Run a command on a host: `run h2 -- CMD`."""


@dataclass(frozen=True, kw_only=True)
class Ssh(OneHost):
    """Open a shell on a host over SSH, or run a command: `ssh h2 [-- CMD]`."""


@dataclass(frozen=True, kw_only=True)
class Down(Common):
    """Remove a lab and everything that it created."""


Command = (
    Annotated[Up, subcommand("up")]
    | Annotated[Status, subcommand("status")]
    | Annotated[Rate, subcommand("rate")]
    | Annotated[Cut, subcommand("cut")]
    | Annotated[Heal, subcommand("heal")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Ssh, subcommand("ssh")]
    | Annotated[Down, subcommand("down")]
)


def main(command: Command, words: list[str]) -> None:
    """Runs a subcommand.

    Args:
        command: the options of the subcommand.
        words: the command for a host, from after `--`.
    """
    if words and not isinstance(command, Run | Ssh):
        raise RequestError(f"-- {' '.join(words)}: only run and ssh take a command; leave it out")
    become_root(command.name)
    match command:
        case Up():
            _up(command)
        case Status():
            # Nulls beside integers, as of a dead host, would make them floats.
            rows = pd.DataFrame(lab.find(command.name).status(), dtype=object)
            print(render(rows, command.format))
        case Rate():
            lab.find(command.name).set_rate(parse_rate(command.rate), command.host)
        case Cut() | Heal():
            lab.find(command.name).set_cut(command.host, cut=isinstance(command, Cut))
        case Run():
            _run(command, words)
        case Ssh():
            _ssh(command, words)
        case Down():
            if not lab.down(command.name):
                print(f"no lab {command.name} was up", file=sys.stderr)


def _up(command: Up) -> None:
    wants_ssh = command.ssh and is_true_root()
    if command.ssh and not wants_ssh:
        print("not root: the hosts get no sshd, and this machine does not reach them itself", file=sys.stderr)
    made = lab.up(command.name, command.lab, wants_ssh, command.subnet)
    rates = ", ".join(sorted({format_rate(host.rate_bits_per_s) for host in made.hosts}))
    print(
        f"lab {command.name}: {len(made.hosts)} emulated hosts, {made.hosts[0].address} to "
        f"{made.hosts[-1].address}, links shaped to {rates} each way, no delay added",
        file=sys.stderr,
    )


def _run(command: Run, words: list[str]) -> None:
    if not words:
        raise RequestError("run: give a command after --, such as `run h2 -- ip address`")
    running = lab.find(command.name)
    line = running.inside(running.state.host(command.host), words)
    os.execvp(line[0], line)


def _ssh(command: Ssh, words: list[str]) -> None:
    running = lab.find(command.name)
    if not running.state.ssh:
        raise RequestError("ssh: the lab has no sshd (it was made without root, or with --no-ssh); see `run`")
    line = ssh.command(running.state, running.state.host(command.host))
    sys.exit(subprocess.run([*line, *words], check=False).returncode)


def run(arguments: Sequence[str], prog: str | None = None) -> None:
    """Runs the subcommand that `arguments` name; the words after `--` are a command for a host."""
    own, words = list(arguments), []
    if "--" in own:
        own, words = own[: own.index("--")], own[own.index("--") + 1 :]
    run_command(
        lambda command: main(command, words),
        Command,  # type: ignore[arg-type]
        SUBCOMMANDS["lab"],
        own,
        prog,
    )
