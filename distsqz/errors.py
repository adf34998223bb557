"""The two ways a command ends badly, each with the one line that its user reads; its commonest reason."""

from __future__ import annotations

from collections.abc import Mapping


class RequestError(Exception):
    """What was asked for cannot be done: the line names the option, its value and what would be right."""


def require_at_least(options: object, least: Mapping[str, float]) -> None:
    """Refuses options that are given and below their least value; both by the field's name.

    Raises:
        RequestError: names the option, its value and the least.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least {bound}")


class RunError(Exception):
    """Training had begun and failed: the line names host, rank and step as far as they are known."""

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
