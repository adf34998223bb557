"""Arrow schemas of a run's tables."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from distsqz.metering.columns import Column
from distsqz.metering.schema import table_columns

RUN_ID = b"run_id"
"""Key of a table's metadata that holds the id of the run it belongs to."""

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def arrow_schema(table: str) -> pa.Schema:
    """Schema of a table as this program writes it."""
    return schema_of(table_columns(table))


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """Schema of columns, in the same order."""
    return pa.schema(
        [pa.field(column.name, _TYPES[column.type], nullable=column.nullable) for column in columns]
    )
