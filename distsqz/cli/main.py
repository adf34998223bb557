"""The command `distsqz`: finds the subcommand and imports nothing that another one needs."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from distsqz import __version__
from distsqz.cli.command import BAD_REQUEST, INTERRUPTED, run_command
from distsqz.cli.extras import advice, missing_extra
from distsqz.cli.subcommands import SUBCOMMANDS


def main() -> None:
    """Runs the subcommand that the command line names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"distsqz {__version__}")
    elif name in ("-h", "--help", "help"):
        print(usage())
    elif name in SUBCOMMANDS:
        run(name, arguments, f"distsqz {name}")
    else:
        meant = difflib.get_close_matches(name, SUBCOMMANDS, n=1)
        advice = f"did you mean {meant[0]}?" if meant else f"choose {', '.join(SUBCOMMANDS)}"
        print(f"error: {name}: no subcommand of distsqz; {advice}", file=sys.stderr)
        sys.exit(BAD_REQUEST)


def run(name: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Runs a subcommand and exits with its status.

    Args:
        name: a key of `SUBCOMMANDS`.
        arguments: the words after the subcommand; by default those of this process.
        prog: the name that --help shows; by default that of the script that was started.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    module = _import(f"distsqz.cli.{name}")
    if hasattr(module, "run"):
        module.run(arguments, prog)
    else:
        run_command(module.main, module.Options, SUBCOMMANDS[name], arguments, prog)


def _import(module: str) -> ModuleType:
    """A subcommand's module; exits with one line where an extra is missing, or on Ctrl-C."""
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except ImportError as error:
        if (extra := missing_extra(error)) is None:
            raise
        print(f"error: {advice(extra)}", file=sys.stderr)
        sys.exit(BAD_REQUEST)


def usage() -> str:
    """The text of `distsqz --help`."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {description}" for name, description in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: distsqz SUBCOMMAND [OPTIONS]",
            "",
            "Measure what communication costs in distributed training.",
            "",
            *lines,
            "",
            "distsqz SUBCOMMAND --help lists its options; distsqz --version prints the version.",
        ]
    )
