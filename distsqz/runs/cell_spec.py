"""What a cell is: a model, a strategy, a world size and options; and the keys that follow from these.

Options are frozen dataclasses of other rooms. Every field counts in every key by itself. Where one does not,
its field says so with the reason: `steps: int = field(default=20, metadata=rules(not_alike="..."))`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, NamedTuple

LONGEST_ID = 120
"""Characters of an id: with what stands around it in a file name, below every file system's limit."""
DIGEST_DIGITS = 16

_METADATA_KEY = "rules"

SAME_VALUES = "it changes speed and rounding, not what is computed"
"""Why training may go on with another value of an option, where that is the reason."""


@dataclass(frozen=True, kw_only=True)
class OptionRules:
    """What is special about an option; nothing is by default."""

    label: str | None = None
    """The letters before its value in ids, by default those of its name. Where the label is empty, the value
    stands alone: it must begin with a letter."""
    group: str | None = None
    """The group of the cell's options that it belongs to, if not that of its dataclass."""
    idle_in_baselines: bool = False
    """Whether it has no effect on a worker that trains by itself."""
    not_alike: str | None = None
    """Why cells that differ in it are alike all the same."""
    not_resumed: str | None = None
    """Why training may go on from a checkpoint that was saved with another value."""
    shared: str | None = None
    """Why the cells of a session cannot differ in it."""


def rules(
    *,
    label: str | None = None,
    group: str | None = None,
    idle_in_baselines: bool = False,
    not_alike: str | None = None,
    not_resumed: str | None = None,
    shared: str | None = None,
) -> dict[str, OptionRules]:
    """The metadata of an option's field; the arguments are those of `OptionRules`."""
    return {
        _METADATA_KEY: OptionRules(
            label=label,
            group=group,
            idle_in_baselines=idle_in_baselines,
            not_alike=not_alike,
            not_resumed=not_resumed,
            shared=shared,
        )
    }


def rules_by_option(options: Any) -> dict[str, OptionRules]:
    """The rules of every field of a dataclass or of one of its instances, by the field's name."""
    return {each.name: _rules(each) for each in fields(options)}


def label_of(name: str, of: OptionRules) -> str:
    """The letters that stand before an option's value in ids."""
    return re.sub("[^a-z]", "", name.lower()) if of.label is None else of.label


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """One model under one strategy at one world size with one set of options, as it was asked for."""

    model: str
    """A name of the registry, or package.module:factory."""
    strategy: str
    """Name of the way in which replicas agree, such as `ddp`."""
    world_size: int
    training: Any
    """A frozen dataclass: how the model is built and trained."""
    strategy_options: Any = None
    """A frozen dataclass with what the strategy alone knows; None where it has no options of its own."""
    settled: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Values of options that the request left open, such as the size of an image. They follow from the
    request, the data and the models of the session, so they tell no two cells of a session apart."""

    @property
    def id(self) -> str:
        """A name that no other cell has: `squeezenet-ddp-w2-bf16-bucket1`, options by default left out.

        It suits file names and has at most `LONGEST_ID` characters. One that would be longer, or that has
        values with other characters than letters, digits, dots and hyphens, ends with "+" and a digest.
        """
        words = [_place_word(self.model), _place_word(self.strategy), _Word(f"w{self.world_size}")]
        words += [_option_word(option, value) for option, value in self._chosen()]
        readable = "-".join(word.text for word in words)
        if len(readable) <= LONGEST_ID and all(word.exact for word in words):
            return readable
        return f"{readable[: LONGEST_ID - 1 - DIGEST_DIGITS]}+{self._digest()}"

    def options(self) -> dict[str, dict[str, Any]]:
        """Every option with its value by group: `model`, `strategy` and `training`."""
        groups: dict[str, dict[str, Any]] = {"model": {"model": self.model}, "strategy": {}, "training": {}}
        groups["strategy"]["strategy"] = self.strategy
        groups["strategy"]["world_size"] = self.world_size
        for group, option, value in self._all():
            groups.setdefault(_rules(option).group or group, {})[option.name] = self._settled(option, value)
        return groups

    def alike_key(self, but: Collection[str] = ()) -> dict[str, Any]:
        """What makes two cells alike: their step times may be compared where all but one of these are equal.

        Args:
            but: names to leave out, those that are compared.
        """
        key = self._key(lambda of: of.not_alike)
        return {name: value for name, value in key.items() if name not in but}

    def resume_key(self) -> dict[str, Any]:
        """What a checkpoint must match for training to go on from it; values by name."""
        return self._key(lambda of: of.not_resumed)

    def _key(self, exemption: Callable[[OptionRules], str | None]) -> dict[str, Any]:
        key: dict[str, Any] = {
            "model": self.model,
            "world_size": self.world_size,
            "strategy": self.strategy,
        }
        counted = ((option, value) for _, option, value in self._all() if exemption(_rules(option)) is None)
        return key | {option.name: self._settled(option, value) for option, value in counted}

    def _settled(self, option: Field[Any], value: Any) -> Any:
        return self.settled.get(option.name, value)

    def _all(self) -> Iterator[tuple[str, Field[Any], Any]]:
        """Group, field and value of every option."""
        for group, options in (("training", self.training), ("strategy", self.strategy_options)):
            if options is not None:
                for option in fields(options):
                    yield group, option, getattr(options, option.name)

    def _chosen(self) -> Iterator[tuple[Field[Any], Any]]:
        """The options that differ from their defaults."""
        return ((option, value) for _, option, value in self._all() if value != _default(option))

    def _digest(self) -> str:
        chosen = [(option.name, _plain(value)) for option, value in self._chosen()]
        whole = [self.model, self.strategy, self.world_size, chosen]
        return hashlib.sha256(repr(whole).encode()).hexdigest()[:DIGEST_DIGITS]


def session_names(specs: Sequence[CellSpec]) -> list[str]:
    """A name for each cell of a session: only the options in which the cells differ are spelled.

    `squeezenet-ddp-w2` where the cells differ in model and strategy alone. Where such names are not unique,
    or a value cannot be spelled exactly, all cells have their ids.
    """
    values: dict[tuple[str, str], set[str]] = {}
    for spec in specs:
        for group, option, value in spec._all():
            values.setdefault((group, option.name), set()).add(repr(_plain(value)))
    names = []
    for spec in specs:
        words = [_place_word(spec.model), _place_word(spec.strategy), _Word(f"w{spec.world_size}")]
        words += [
            _option_word(option, value)
            for group, option, value in spec._all()
            if len(values[group, option.name]) > 1 and value != _default(option)
        ]
        names.append("-".join(word.text for word in words) if all(word.exact for word in words) else "")
    right = len(set(names)) == len(names) and all(0 < len(name) <= LONGEST_ID for name in names)
    return names if right else [spec.id for spec in specs]


_NAMES = {"None": "none", "True": "on", "False": "off"}


class _Word(NamedTuple):
    """A part of an id."""

    text: str
    exact: bool = True
    """Whether no other value gives the same text."""


def _place_word(place: str) -> _Word:
    """The name of a model or strategy, a dot for the colon: only names of a module have dots."""
    name, colon, attribute = place.partition(":")
    exact = re.fullmatch(r"[\w.]+:\w+" if colon else r"\w+", place, re.ASCII) is not None
    return _Word(_safe(f"{name}.{attribute}" if colon else place), exact)


def _option_word(option: Field[Any], value: Any) -> _Word:
    """Label and value. A label has letters only and a number none, so it is clear where the value begins."""
    label = label_of(option.name, _rules(option))
    value = _plain(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Word(label + repr(value).replace("-", "_").replace("+", ""), math.isfinite(value))
    word = _text_word(_NAMES.get(repr(value), str(value)))
    return word._replace(text=f"{label}.{word.text}") if label else word


def _text_word(text: str) -> _Word:
    """A value's text; hyphens, which stand between words, are written as underscores."""
    return _Word(_safe(text), re.fullmatch(r"[A-Za-z0-9.-]+", text) is not None)


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", text)


def _plain(value: Any) -> Any:
    """The value, a whole number always as an integer: equal values are to look alike."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rules(option: Field[Any]) -> OptionRules:
    rules: OptionRules = option.metadata.get(_METADATA_KEY, OptionRules())
    return rules


def _default(option: Field[Any]) -> Any:
    if option.default is not MISSING:
        return option.default
    assert option.default_factory is not MISSING, f"{option.name}: an option needs a default"
    return option.default_factory()
