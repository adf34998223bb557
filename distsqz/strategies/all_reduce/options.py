"""Options of all-reduce: those of its own, and those of every compressor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, field, fields, make_dataclass, replace
from typing import Any, get_type_hints

from distsqz.errors import InvalidValue, renamed_fields
from distsqz.runs.cell_spec import SAME_VALUES, label_of, rules, rules_by_option
from distsqz.strategies.all_reduce.compressors.compressor import Compressor
from distsqz.strategies.all_reduce.compressors.registry import (
    COMPRESSORS,
    NONE,
    compressor_named,
    made_compressor,
    option_name,
)


@dataclass(frozen=True, kw_only=True)
class OwnOptions:
    """Options of all-reduce."""

    bucket_mb: float | None = field(
        default=None,
        metadata=rules(label="bucket", not_resumed=SAME_VALUES),
    )
    """Size of a bucket of gradients in MiB; by default DDP's own, 1 for the first bucket and 25 for the
    others."""
    find_unused_parameters: bool = field(
        default=False,
        metadata=rules(label="unused", not_resumed=SAME_VALUES),
    )
    """Train models with parameters that get no gradient in a step. DDP then sends 4 more bytes for each
    parameter tensor in a step. A parameter server always trains such models."""

    compressor: str = field(default=NONE, metadata=rules(label=""))
    """What is sent in place of whole gradients."""

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        for name in COMPRESSORS:
            own = {each.name: option_name(name, each.name) for each in fields(compressor_named(name))}
            with renamed_fields(**own):
                made_compressor(name, asdict(self))
        if self.compressor != NONE:
            compressor_named(self.compressor)
        if self.bucket_mb is not None and not 0 < self.bucket_mb < math.inf:
            raise InvalidValue("bucket_mb", self.bucket_mb, "must be a number above 0")

    def made_compressor(self) -> Compressor | None:
        """The compressor with its options; None where gradients are sent as they are."""
        return made_compressor(self.compressor, asdict(self))

    def without_idle(self) -> OwnOptions:
        """The options, with defaults for those of compressors that are not chosen."""
        idle: dict[str, Any] = {
            option_name(name, each.name): each.default
            for name in COMPRESSORS
            if name != self.compressor
            for each in fields(compressor_named(name))
        }
        return replace(self, **idle)


def _of_compressors() -> Iterator[tuple[str, Any, Field[Any], str]]:
    """Name, type, field and help text of every compressor's options."""
    for name in COMPRESSORS:
        kind = compressor_named(name)
        hints, of = get_type_hints(kind), rules_by_option(kind)
        for each in fields(kind):
            own = of[each.name]
            text = f"For {name}: {each.metadata['help'][0].lower()}{each.metadata['help'][1:]}"
            metadata = {"help": text} | rules(
                label=name + label_of(each.name, own), not_resumed=own.not_resumed, shared=own.shared
            )
            named = option_name(name, each.name)
            yield named, hints[each.name], field(default=each.default, metadata=metadata), text


def _compressors() -> str:
    """The compressors with what they send, for the help."""
    known = (f"{name} ({compressor_named(name).description})" for name in COMPRESSORS)
    return "; ".join([f"{NONE} (gradients as they are)", *known, "package.module:name of your own"])


_ADDED = list(_of_compressors())

AllReduceOptions: Any = make_dataclass(
    "AllReduceOptions",
    [(name, kind, added) for name, kind, added, _ in _ADDED],
    bases=(OwnOptions,),
    namespace={
        "__doc__": "Options of all-reduce and of its compressors.\n\nAttributes:\n"
        + f"    compressor: What is sent in place of whole gradients: {_compressors()}.\n"
        + "\n".join(f"    {name}: {text}" for name, _, _, text in _ADDED),
        "__module__": __name__,
    },
    frozen=True,
    kw_only=True,
)
"""The options of all-reduce, with those of every compressor under their names behind the compressor's."""
