"""Columns and types of a run's tables in Arrow and Parquet."""

from __future__ import annotations

import functools
import typing
from dataclasses import fields

import pyarrow as pa

from distsqz.metering.schema import TABLES

RUN_ID = b"run_id"
"""Key of a table's metadata that holds the id of the run it belongs to."""


@functools.cache
def arrow_schema(table: str) -> pa.Schema:
    """Columns and types of a table, from its record's fields."""
    record = TABLES[table]
    hints = typing.get_type_hints(record)
    arrow_types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = []
    for field in fields(record):
        alternatives = set(typing.get_args(hints[field.name]) or (hints[field.name],))
        nullable = type(None) in alternatives
        (kind,) = alternatives - {type(None)}
        columns.append(pa.field(field.name, arrow_types[kind], nullable=nullable))
    return pa.schema(columns)
