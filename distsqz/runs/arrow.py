"""Arrow schemas of a run's tables."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from distsqz.runs.columns import Column

RUN_ID = b"run_id"
"""Key of a table's metadata that holds the id of the run it belongs to."""

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """Schema of columns, in the same order."""
    return pa.schema(
        [pa.field(column.name, _TYPES[column.type], nullable=column.nullable) for column in columns]
    )
