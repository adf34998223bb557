"""Loads what `package.module:name` names: entries of the open sets, those of distsqz and anyone's own."""

from __future__ import annotations

import importlib
from typing import Any


def load(place: str) -> Any:
    """What `package.module:name` names.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
