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
from distsqz.report.formats import Format, render


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every subcommand takes."""

    name: str = DEFAULT_NAME
    """Of the lab: several may be up at once."""
    debug: bool = False
    """Print tracebacks."""


@dataclass(frozen=True, kw_only=True)
class Up(Common):
    """Make a lab, or mend one after a crash."""

    lab: OmitArgPrefixes[LabOptions] = field(default_factory=LabOptions)
    subnet: str | None = None
    """Addresses of the lab, a /24; by default 198.18.0.0/24 for the default lab, a free one for others."""
    ssh: bool = True
    """An sshd on every host (only as root); --no-ssh: none."""


@dataclass(frozen=True, kw_only=True)
class Status(Common):
    """Show hosts, links and what has passed them."""

    format: Format = "table"
    """Of the table on stdout."""


@dataclass(frozen=True, kw_only=True)
class Rate(Common):
    """Change the rate of links that are in use."""

    rate: Positional[str]
    """Each way: kbit, mbit or gbit."""
    host: str | None = None
    """Only this host's link."""


@dataclass(frozen=True, kw_only=True)
class OneHost(Common):
    """What every subcommand about one host takes."""

    host: Positional[str]
    """Such as h3."""


@dataclass(frozen=True, kw_only=True)
class Cut(OneHost):
    """Pull a host's cable."""


@dataclass(frozen=True, kw_only=True)
class Heal(OneHost):
    """Plug a host's cable in again."""


@dataclass(frozen=True, kw_only=True)
class Run(OneHost):
    """Run a command on a host: `run h2 -- CMD`."""


@dataclass(frozen=True, kw_only=True)
class Ssh(OneHost):
    """Open a shell on a host over SSH, or run a command: `ssh h2 [-- CMD]`."""


@dataclass(frozen=True, kw_only=True)
class Down(Common):
    """Remove a lab and everything that it made."""


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
    """Does what was asked; `words` stood after `--`."""
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
    here = lab.find(command.name)
    line = here.inside(here.state.host(command.host), words)
    os.execvp(line[0], line)


def _ssh(command: Ssh, words: list[str]) -> None:
    here = lab.find(command.name)
    if not here.state.ssh:
        raise RequestError("ssh: the lab has no sshd (it was made without root, or with --no-ssh); see `run`")
    line = ssh.command(here.state, here.state.host(command.host))
    sys.exit(subprocess.run([*line, *words], check=False).returncode)


def run(arguments: Sequence[str], prog: str | None = None) -> None:
    """Parses `arguments`, of which what follows `--` is a command for a host, and does what they ask."""
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
