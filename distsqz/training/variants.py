"""Combinations of option values that are measured side by side, and the strategies that each option
affects.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from distsqz.models.registry import METAPARAMETERS, takes_metaparameters
from distsqz.runs.cell_spec import rules_by_option
from distsqz.training.options import ServerOptions, TrainingOptions

Vary = Mapping[str, Sequence[Any]]
"""Values to measure side by side, by the name of an option of training or of a parameter server."""

TRAINING = rules_by_option(TrainingOptions)
SERVER = rules_by_option(ServerOptions)
RULES = TRAINING | SERVER
"""Rules of every option of a cell, by name."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One combination of values."""

    training: TrainingOptions
    servers: Sequence[ServerOptions | None]
    """The strategies: a parameter server, or None for all-reduce."""


def variants(
    training: TrainingOptions, servers: Sequence[ServerOptions | None], vary: Vary
) -> Iterator[Variant]:
    """All combinations of the values in `vary`, which go before those in `training` and `servers`.

    Raises:
        RequestError: an option does not take a value, or not together with the others.
    """
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        yield Variant(
            training=replace(training, **_only(chosen, TRAINING)),
            servers=[server and replace(server, **_only(chosen, SERVER)) for server in servers],
        )


Options = TypeVar("Options", TrainingOptions, ServerOptions)


def effective(options: Options, strategy: str) -> Options:
    """The options, with defaults for those that have no effect under a strategy."""
    defaults: dict[str, Any] = {each.name: each.default for each in fields(options)}
    idle = [name for name, of in rules_by_option(options).items() if not has_effect(of.strategies, strategy)]
    return replace(options, **{name: defaults[name] for name in idle})


def has_effect(strategies: tuple[str, ...] | None, strategy: str) -> bool:
    """Whether an option has an effect under a strategy; None stands for all strategies."""
    return strategies is None or strategy in strategies


def not_multiplied(vary: Vary, models: Sequence[str], strategies: Sequence[str]) -> list[str]:
    """A line for each varied option that has no effect under a strategy or on a model."""
    places = [
        (name, f"under {strategy}")
        for name in vary
        for strategy in strategies
        if not has_effect(strategies_of(name), strategy)
    ]
    places += [
        (name, f"on {model}")
        for name in vary
        if name in METAPARAMETERS
        for model in models
        if not takes_metaparameters(model)
    ]
    return [f"{name} has no effect {place}: its values share a cell there" for name, place in places]


def strategies_of(name: str) -> tuple[str, ...] | None:
    """Strategies under which an option has an effect; None for all."""
    return ("ps",) if name in SERVER else TRAINING[name].strategies


def _only(chosen: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name in known}
