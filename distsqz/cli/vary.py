"""Parses `--vary`: values of options that are measured side by side."""

from __future__ import annotations

import contextlib
import difflib
import io
import typing
from collections.abc import Sequence
from typing import Any, Literal

import tyro

from distsqz.errors import RequestError
from distsqz.strategies.registry import strategy_named, synchronising
from distsqz.strategies.strategy import Strategy
from distsqz.training.options import TrainingOptions
from distsqz.training.variants import Vary, rules_of


def parse_vary(texts: Sequence[str], strategies: Sequence[Strategy]) -> Vary:
    """Values by the name of their option, each of the option's own type.

    Args:
        texts: one for each option, such as "bucket_mb=1,25".
        strategies: what is measured; an option must have an effect under one of them.

    Raises:
        RequestError: there is no such option, a value is not one of the option's, or nothing varies.
    """
    hints = {
        name: hint
        for options in (TrainingOptions, *_every_options(strategies))
        for name, hint in typing.get_type_hints(options).items()
    }
    rules = rules_of([type(strategy) for strategy in strategies])
    vary: dict[str, list[Any]] = {}
    for text in texts:
        option, _, listed = text.partition("=")
        name = option.strip().lstrip("-").replace("-", "_")
        if name not in hints:
            raise RequestError(f"--vary {text}: {option!r} is no option of a cell; {_advice(name, hints)}")
        if name in vary:
            raise RequestError(f"--vary {text}: {name} is varied twice; list its values in one --vary")
        if name not in rules:
            names = ", ".join(strategy.name for strategy in strategies)
            raise RequestError(f"--vary {text}: has no effect under {names}; leave it out")
        if reason := rules[name].shared:
            raise RequestError(f"--vary {text}: {reason}; measure each value in a run of its own")
        vary[name] = [_parsed(text, value.strip(), hints[name]) for value in listed.split(",")]
        if len(vary[name]) < 2 or any(vary[name].count(value) > 1 for value in vary[name]):
            raise RequestError(f"--vary {text}: give two or more values that differ, as in {name}=A,B")
    return vary


def _every_options(strategies: Sequence[Strategy]) -> list[type[Any]]:
    """The options of all strategies of distsqz, and of those that are measured."""
    return [strategy_named(name).Options for name in synchronising()] + [each.Options for each in strategies]


def _advice(name: str, options: typing.Collection[str]) -> str:
    near = difflib.get_close_matches(name, options, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"choose of {', '.join(sorted(options))}"


def _parsed(text: str, value: str, kind: Any) -> Any:
    """Parses a value as tyro parses that of an option on the command line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(kind, args=[value])
    except SystemExit:
        raise RequestError(f"--vary {text}: {value!r} must be {_expected(kind)}") from None


def _expected(kind: Any) -> str:
    """Description of the values that a type accepts."""
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a text",
        type(None): "None",
    }
    return " or ".join(words[each] for each in typing.get_args(kind) or (kind,))
