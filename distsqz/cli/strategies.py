"""Options by which a command chooses strategies: their names, and the options of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes

from distsqz.errors import InvalidValue, RequestError
from distsqz.strategies.registry import strategy_named, synchronising
from distsqz.strategies.strategy import Strategy

WITH_OPTIONS = {
    name: kind
    for name, kind in ((name, strategy_named(name)) for name in synchronising())
    if fields(kind.Options)
}

StrategyOptions: Any = make_dataclass(
    "StrategyOptions",
    [
        (name, Annotated[kind.Options, OmitArgPrefixes], field(default_factory=kind.Options))
        for name, kind in WITH_OPTIONS.items()
    ],
    namespace={"__doc__": "Options of every strategy of distsqz.", "__module__": __name__},
    frozen=True,
    kw_only=True,
)


def described() -> str:
    """The strategies of distsqz with their titles, for help texts and messages."""
    return ", ".join(f"{name} ({strategy_named(name).title})" for name in synchronising())


def chosen_strategies(names: Sequence[str], options: Any, option: str = "--strategies") -> list[Strategy]:
    """The strategies that are asked for, each with its options.

    Args:
        names: names of the registry, or package.module:name.
        options: an instance of `StrategyOptions`.
        option: the command's option with the names.

    Raises:
        RequestError: a name is unknown or given twice, none is, or an option is of a strategy that is not
            named.
    """
    if not names or len(set(names)) < len(names):
        raise RequestError(f"{option} {' '.join(names)}: name at least one of {described()}, each once")
    for each in fields(options):
        given = getattr(options, each.name)
        if each.name not in names and (value := _first_given(given)):
            title = strategy_named(each.name).title
            given_as = f"--{value[0].replace('_', '-')} {value[1]}"
            raise RequestError(
                f"{given_as}: is for {each.name} ({title}); name {each.name} in {option} or leave it out"
            )
    found = []
    for name in names:
        try:
            kind = strategy_named(name)
        except InvalidValue as error:
            raise RequestError(f"{option} {name}: {error.reason}") from error
        if kind.is_baseline:
            raise RequestError(f"{option} {name}: is what others are compared with; choose of {described()}")
        found.append(kind(getattr(options, name, None)))
    return found


def _first_given(options: Any) -> tuple[str, Any] | None:
    """Name and value of the first option that does not have its default."""
    by_default = type(options)()
    values = ((each.name, getattr(options, each.name)) for each in fields(options))
    return next((pair for pair in values if pair[1] != getattr(by_default, pair[0])), None)
