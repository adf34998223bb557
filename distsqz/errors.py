"""Errors that end a command with one line for the user: an invalid request, or a run that failed.

Messages name options and parameters in backticks, as Python spells them: `batch_size`, or `ssh=False`. The
command replaces these by its own spelling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping


class RequestError(Exception):
    """A request that cannot be carried out; the message is one line that says why and what would be right."""


class InvalidValue(RequestError):  # noqa: N818 - its name says what is wrong
    """A value that an option or parameter cannot have.

    Attributes:
        field: name of the option or parameter, for example "batch_size".
        value: the value that was given; None if the reason does not depend on a single value.
        reason: why the value is refused, and what would be right.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(field, value, reason)  # all of them, so that the error can be pickled
        self.field = field
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.field}: {self.reason}"
            if self.value is None
            else f"{self.field} {self.value}: {self.reason}"
        )


@contextlib.contextmanager
def renamed_fields(**names: str) -> Iterator[None]:
    """Renames the field of an `InvalidValue` that is raised in the block.

    A function names its own parameter; its caller may know the value by another name.

    Args:
        names: the caller's name for each field, for example `directory="calibration"`.
    """
    try:
        yield
    except InvalidValue as error:
        if error.field not in names:
            raise
        raise InvalidValue(names[error.field], error.value, error.reason) from error


def require_at_least(options: object, least: Mapping[str, float]) -> None:
    """Refuses values below a minimum; None is accepted.

    Args:
        options: the object whose attributes are checked.
        least: the minimum for each name of an attribute.

    Raises:
        InvalidValue: a value is below its minimum.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise InvalidValue(name, value, f"must be at least {bound}")


class RunError(Exception):
    """A run that failed after it had started; the message names cell, host, rank and step if known."""

    def __init__(
        self,
        text: str,
        *,
        cell: str | None = None,
        host: str | None = None,
        rank: int | None = None,
        step: int | None = None,
    ) -> None:
        where = [
            f"{name} {value}"
            for name, value in (("cell", cell), ("host", host), ("rank", rank), ("step", step))
            if value is not None
        ]
        super().__init__(f"{', '.join(where)}: {text}" if where else text)
        self.text = text
        self.cell = cell
        self.host = host
        self.rank = rank
        self.step = step


def name_some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    first, rest = [*names][:3], [*names][3:]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "")
