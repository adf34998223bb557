"""Columns of a run's tables, each declared once, on the field of the record that holds its values.

A record is a dataclass whose fields are made with `column`. The type and whether a column may be null follow
from the field's annotation. Tables, their types in Parquet, the `columns` in run.json and what the report
shows of instruments follow from these declarations.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Value = str | int | float | bool | None
"""What a column holds; None where a figure could not be read."""

Combination = Literal["mean", "sum", "max"]
"""How the values of all ranks in one step become one; a report shows the mean of these over steps."""

TypeName = Literal["str", "int", "float", "bool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a report needs to know of a column, whichever instrument it is of."""

    name: str
    type: TypeName
    nullable: bool
    """Whether a value may be null: the figure could not be read."""
    meaning: str
    unit: str | None = None
    """Unit of the values; None for names, counts without one and yes or no."""
    combine: Combination | None = None
    """How it is combined over ranks; None for what is not a figure of the cell, such as a name."""
    heading: str | None = None
    """Heading in the report's tables; None for what no table shows by itself."""


def column(
    meaning: str, *, unit: str | None = None, combine: Combination | None = None, heading: str | None = None
) -> Any:
    """A field of a record that is a column of a table; see `Column` for the arguments."""
    return field(metadata={"meaning": meaning, "unit": unit, "combine": combine, "heading": heading})


def columns_of(record: type[Any]) -> tuple[Column, ...]:
    """The columns that a record declares, in their order."""
    if record not in _columns:
        _columns[record] = _declared(record)
    return _columns[record]


_columns: dict[type[Any], tuple[Column, ...]] = {}
"""What `columns_of` has given before; every step asks again."""


def _declared(record: type[Any]) -> tuple[Column, ...]:
    hints = typing.get_type_hints(record)
    columns = []
    for each in fields(record):
        if "meaning" in each.metadata:
            alternatives = set(typing.get_args(hints[each.name]) or (hints[each.name],))
            (kind,) = alternatives - {type(None)}
            columns.append(
                Column(
                    name=each.name,
                    type=typing.cast(TypeName, kind.__name__),
                    nullable=type(None) in alternatives,
                    **each.metadata,
                )
            )
    return tuple(columns)


def values_of(record: Any) -> dict[str, Value]:
    """A record's values by column."""
    return {each.name: getattr(record, each.name) for each in columns_of(type(record))}
