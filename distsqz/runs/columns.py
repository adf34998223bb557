"""Columns of a run's tables, each declared once, on the field of the record that holds its values.

A record is a dataclass whose fields are made with `column`. The type and whether a column may be null follow
from the field's annotation. Tables, their types in Parquet, the `columns` in run.json and what the report
shows of instruments follow from these declarations.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Value = str | int | float | bool | None
"""Value of a column; None if the figure could not be read."""

Combination = Literal["mean", "sum", "max"]
"""How the values of all ranks in a step are combined; a report shows the mean of the results over steps."""

TypeName = Literal["str", "int", "float", "bool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Declaration of a column."""

    name: str
    type: TypeName
    nullable: bool
    """Whether a value may be null, for a figure that could not be read."""
    meaning: str
    unit: str | None = None
    """Unit of the values; None for names, booleans and counts without a unit."""
    combine: Combination | None = None
    """How values are combined over ranks; None for columns that are no figure of the cell, such as a name."""
    heading: str | None = None
    """Heading in the report's tables; None if no table shows the column by itself."""


def column(
    meaning: str, *, unit: str | None = None, combine: Combination | None = None, heading: str | None = None
) -> Any:
    """Declares a field of a record as a column of a table; see `Column` for the arguments."""
    return field(metadata={"meaning": meaning, "unit": unit, "combine": combine, "heading": heading})


Tables = Mapping[str, tuple[Column, ...]]
"""The columns of each table, by its name."""


class Row:
    """Base of records that are rows of a table."""

    __slots__ = ()

    def values(self) -> dict[str, Value]:
        """The record's values by column of its table."""
        return values_of(self)


def columns_of(record: type[Any]) -> tuple[Column, ...]:
    """The columns that a record declares, in their order."""
    if record not in _columns:
        _columns[record] = _declared(record)
    return _columns[record]


_columns: dict[type[Any], tuple[Column, ...]] = {}
"""Cache of `columns_of`, which is called in every step."""


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
