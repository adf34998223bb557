"""Puts what tyro says about a command line into one line: the option, its value, and what would be right."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distsqz.cli.spelling import option_spellings
from distsqz.cli.subcommands import SUBCOMMANDS

HELP = "--help lists the options"

KINDS = {"INT": "a whole number", "FLOAT": "a number", "int()": "a whole number", "float": "a number"}
"""What an option takes, by the word for it in tyro's messages."""


def line_of(message: str, options_type: Any) -> str:
    """The line for a message of tyro's; the message itself where its form is not known.

    Args:
        message: what tyro says, in one line.
        options_type: the dataclass of the command's options.
    """
    if unknown := re.match(r"Unrecognized options: ([^;(]+)", message):
        advice = _advice_on(unknown[1].strip().split(", "), options_type)
        return advice or f"{message}; {HELP}"
    for pattern, line in _FORMS:
        if found := re.match(pattern, message):
            return line(found)
    return f"{message}; {HELP}"


def _choice(found: re.Match[str]) -> str:
    choices = ast.literal_eval(found[3])
    return f"{found[2]} {found[1]}: choose {_alternatives(list(map(str, choices)))}"


def _kind(found: re.Match[str]) -> str:
    return f"{found[1]} {found[3]}: must be {KINDS[found[2]]}"


_FORMS: Sequence[tuple[str, Callable[[re.Match[str]], str]]] = (
    (r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of (\(.*\))", _choice),
    (r"Error parsing (\S+): invalid literal for (int\(\)) .*: '(.*)'", _kind),
    (r"Error parsing (\S+): could not convert string to (float): '(.*)'", _kind),
    (r"Error parsing (\S+): no type matching \{None\}\|(INT|FLOAT) .*? from \['(.*?)'\]", _kind),
    (
        r"Error parsing (\S+): (?:no type matching .*)?Could not find valid parse for arguments: (\[.*\])",
        lambda found: f"{found[1]} {' '.join(ast.literal_eval(found[2]))}: not what it takes; {HELP}",
    ),
    (r"Missing value for argument '(\S+)'", lambda found: f"{found[1]}: needs a value; {HELP}"),
)
"""Forms of tyro's messages, and the line for each."""


def _advice_on(words: Sequence[str], options_type: Any) -> str | None:
    """What to do about words that a command does not understand; None if nothing comes to mind."""
    own = set(option_spellings(options_type).values())
    first = words[0].partition("=")[0]
    if not first.startswith("-"):
        takes = next((option for option in ("--model", "--models") if option in own), None)
        if takes:
            return f"{first}: no option; give a model as {takes} {first}"
        return f"{first}: one word too many; --help shows what the command takes"
    unknown = f"{first}: no option of this command"
    if near := difflib.get_close_matches(first, own, n=1, cutoff=0.75):
        return f"{unknown} (perhaps you meant {near[0]}); {HELP}"
    if commands := [f"`distsqz {name}`" for name in _commands_with(first)]:
        return f"{unknown}, but of {_alternatives(commands[:3], 'and')}; {HELP}"
    return None


def _commands_with(option: str) -> Iterator[str]:
    """The subcommands that have an option. Those that cannot be imported are passed over."""
    for name in SUBCOMMANDS:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(f"distsqz.cli.{name}")
            options = getattr(module, "Options", getattr(module, "Command", None))
            if option in option_spellings(options).values():
                yield name


def _alternatives(words: Sequence[str], last: str = "or") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
