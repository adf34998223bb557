"""The compressors by name: those of distsqz, and anyone's own as `package.module:name`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from distsqz.loading import entry_named
from distsqz.strategies.all_reduce.compressors.compressor import Compressor

NONE = "none"
"""Gradients are sent as they are."""

COMPRESSORS: Mapping[str, str] = {
    "fp16": "distsqz.strategies.all_reduce.compressors.fp16:Fp16",
    "bf16": "distsqz.strategies.all_reduce.compressors.bf16:Bf16",
    "powersgd": "distsqz.strategies.all_reduce.compressors.powersgd:PowerSGD",
    "randomk": "distsqz.strategies.all_reduce.compressors.randomk:RandomK",
}
"""Where each compressor is declared."""


def compressor_named(name: str) -> type[Compressor]:
    """The compressor of a name.

    Raises:
        InvalidValue: there is none; it says which there are.
    """
    known = [NONE, *COMPRESSORS]
    found: type[Compressor] = entry_named(name, Compressor, "compressor", COMPRESSORS, known)
    return found


def option_name(compressor: str, name: str) -> str:
    """The name among the options of all-reduce of a compressor's option."""
    return f"{compressor}_{name}"


def made_compressor(name: str, options: Mapping[str, Any]) -> Compressor | None:
    """A compressor with its options, given by their names among those of all-reduce; None for `none`."""
    if name == NONE:
        return None
    kind = compressor_named(name)
    given = {each.name: option_name(name, each.name) for each in fields(kind)}
    return kind(**{field: options[key] for field, key in given.items() if key in options})
