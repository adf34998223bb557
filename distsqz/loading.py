"""Loads what `package.module:name` names: entries of the open sets, those of distsqz and anyone's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from distsqz.errors import InvalidValue


def load(place: str) -> Any:
    """What `package.module:name` names.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def entry_named(
    name: str, kind: type[Any], field: str, places: Mapping[str, str], known: Sequence[str]
) -> Any:
    """The entry of an open set by its name: a subclass of `kind`.

    Args:
        name: a key of `places`, or `package.module:name`.
        kind: the class that entries derive from.
        field: the option that the name was given for.
        places: where the entries of distsqz are.
        known: names to choose from, for the message.

    Raises:
        InvalidValue: there is no such entry.
    """
    place = places.get(name, name)
    if ":" not in place:
        choices = " ".join(known)
        raise InvalidValue(field, name, f"is none of {choices}, nor package.module:name of your own")
    try:
        found = load(place)
    except (ImportError, AttributeError) as error:
        raise InvalidValue(field, name, f"cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InvalidValue(field, name, f"must be a subclass of {kind.__module__}.{kind.__name__}")
    return found
