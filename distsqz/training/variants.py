"""Combinations of option values that are measured side by side, and where each option has an effect."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from distsqz.models.registry import METAPARAMETERS, takes_metaparameters
from distsqz.runs.cell_spec import OptionRules, rules_by_option
from distsqz.strategies.strategy import Strategy
from distsqz.training.options import TrainingOptions

Vary = Mapping[str, Sequence[Any]]
"""Values to measure side by side, by the name of an option of training or of a strategy."""

TRAINING = rules_by_option(TrainingOptions)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One combination of values."""

    training: TrainingOptions
    strategies: Sequence[Strategy]


def variants(training: TrainingOptions, strategies: Sequence[Strategy], vary: Vary) -> Iterator[Variant]:
    """All combinations of the values in `vary`, which go before those in `training` and `strategies`.

    Raises:
        RequestError: an option does not take a value, or not together with the others.
    """
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        yield Variant(
            training=replace(training, **_only(chosen, TRAINING)),
            strategies=[
                replace(
                    each, options=replace(each.options, **_only(chosen, rules_by_option(each.Options)))
                ).effective()
                for each in strategies
            ],
        )


def for_baseline(options: TrainingOptions) -> TrainingOptions:
    """The options, with defaults for those that have no effect on a worker that trains by itself."""
    defaults: dict[str, Any] = {each.name: each.default for each in fields(options)}
    return replace(options, **{name: defaults[name] for name, of in TRAINING.items() if of.idle_in_baselines})


def rules_of(strategies: Sequence[type[Strategy]]) -> dict[str, OptionRules]:
    """Rules of every option of training and of some strategies, by name."""
    of_strategies = [rules_by_option(each.Options) for each in strategies]
    return {name: of for group in (TRAINING, *of_strategies) for name, of in group.items()}


def not_multiplied(vary: Vary, models: Sequence[str], strategies: Sequence[Strategy]) -> list[str]:
    """A line for each varied option that has no effect under a strategy or on a model."""
    places = [
        (name, f"under {strategy.name}")
        for name in vary
        for strategy in strategies
        if name not in rules_of([type(strategy)])
    ]
    places += [
        (name, f"on {model}")
        for name in vary
        if name in METAPARAMETERS
        for model in models
        if not takes_metaparameters(model)
    ]
    return [f"{name} has no effect {place}: its values share a cell there" for name, place in places]


def _only(chosen: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name in known}
