"""How a command spells its options: to the user, the field `batch_size` is `--batch-size`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from distsqz.errors import InvalidValue

FIELD = re.compile(r"`([a-z]\w*)(?:=([^`]+))?`")
"""A field that a message names, perhaps with a value: `hosts`, `hosts=4`."""


def spell(error: Exception, options_type: Any) -> str:
    """The message of an error, with fields named as the user writes them.

    A field in backticks that is no option of the command stays as it is.

    Args:
        error: the error.
        options_type: the dataclass of the command's options, or the union of its subcommands' dataclasses.
    """
    spellings = dict(option_spellings(options_type))
    if "models" in spellings:  # an error about one model of several
        spellings.setdefault("model", spellings["models"])
    if isinstance(error, InvalidValue):
        field = spellings.get(error.field, error.field)
        value = "" if error.value is None else f" {error.value}"
        message = f"{field}{value}: {error.reason}"
    else:
        message = str(error)

    def replacement(match: re.Match[str]) -> str:
        return _spell_with_value(spellings[match[1]], match[2]) if match[1] in spellings else match[0]

    return FIELD.sub(replacement, message)


def _spell_with_value(option: str, value: str | None) -> str:
    match value:
        case None | "True":
            return option
        case "False":
            return option.replace("--", "--no-", 1)
        case _:
            return f"{option} {value}"


def option_spellings(options_type: Any) -> Mapping[str, str]:
    """Spellings by field: `--` and the name with hyphens, or the placeholder of a positional argument.

    Args:
        options_type: a dataclass, whose fields may be dataclasses of further options; or a union of those.
    """
    return dict(_spellings(options_type))


def _spellings(options_type: Any) -> Iterator[tuple[str, str]]:
    if get_origin(options_type) is Annotated:
        options_type = get_args(options_type)[0]
    if not is_dataclass(options_type):
        for member in get_args(options_type):
            yield from _spellings(member)
        return
    for name, hint in get_type_hints(options_type, include_extras=True).items():
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if is_dataclass(kind):
            yield from _spellings(kind)
        elif any(mark in marks for mark in Positional[Any].__metadata__):  # type: ignore[misc]
            placeholders = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
            yield name, placeholders[0].split()[0] if placeholders else name
        else:
            yield name, f"--{name.replace('_', '-')}"
