"""The strategies by name: those of distsqz, and anyone's own as `package.module:name`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from distsqz.errors import InvalidValue
from distsqz.loading import entry_named
from distsqz.strategies.strategy import Strategy

BUILT_IN: Mapping[str, str] = {
    "ddp": "distsqz.strategies.all_reduce.strategy:AllReduce",
    "ps": "distsqz.strategies.parameter_server.strategy:ParameterServer",
    "reduction_tree": "distsqz.strategies.reduction_tree.strategy:ReductionTree",
    "alone": "distsqz.strategies.alone.strategy:Alone",
}
"""Where each strategy is declared."""

REFERENCE = next(iter(BUILT_IN))
"""The strategy that the others are compared with."""


@cache
def strategy_named(name: str) -> type[Strategy]:
    """The strategy of a name, a subclass of `Strategy`.

    Raises:
        InvalidValue: there is none; it says which there are.
    """
    found: type[Strategy] = entry_named(name, Strategy, "strategy", BUILT_IN, [*BUILT_IN])
    return found


def synchronising() -> list[str]:
    """Names of the strategies of distsqz by which several workers agree."""
    return [name for name in BUILT_IN if not strategy_named(name).is_baseline]


def strategy_of(entry: Mapping[str, Any]) -> Strategy:
    """The strategy of a cell's entry in run.json, with its options. One that cannot be imported here is told
    by its name alone.

    A report may be made where the strategy of a run is not installed; it then takes transfers for
    collectives. Options that an older distsqz did not know have their defaults.
    """
    try:
        kind = strategy_named(entry["strategy"])
    except InvalidValue:
        kind = _unknown(entry["strategy"])
    names = [each.name for each in fields(kind.Options) if each.name in entry]
    try:
        return kind(kind.Options(**{name: entry[name] for name in names}))
    except InvalidValue:  # a compressor of the user's that is not installed here
        return kind()


@cache
def _unknown(name: str) -> type[Strategy]:
    known = {"name": name, "title": name, "abbreviation": name, "worker": ""}
    return type("UnknownStrategy", (Strategy,), known)
