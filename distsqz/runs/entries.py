"""Keys and types that run.json must have for a report.

Other keys may stand beside these. What is not known is null or left out.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from distsqz.runs.columns import Column, Combination, TypeName


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


def _from_text(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


class ColumnEntry(_Entry):
    """A column of a table, as `distsqz.runs.columns.Column` declares it."""

    name: str
    type: TypeName
    nullable: bool
    meaning: str
    unit: str | None = None
    combine: Combination | None = None
    heading: str | None = None

    def column(self) -> Column:
        """The column that the entry declares."""
        return Column(**{each.name: getattr(self, each.name) for each in fields(Column)})


class RunEntry(_Entry):
    """Content of run.json."""

    run_id: str
    status: str
    started_at: Annotated[AwareDatetime, BeforeValidator(_from_text)]
    cells: list[dict[str, Any]]
    options: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    error: dict[str, Any] | str | None = None
    rows: dict[str, NonNegativeInt] = {}
    """Number of rows of each table when the run ended."""
    columns: dict[str, list[ColumnEntry]] = {}
    """Columns of each table and their meaning; none in runs of schema 1."""


class _CellEntry(_Entry):
    cell: str
    model: str
    hosts: list[str] | None = None
    emulated_rate_bits_per_s: dict[str, PositiveInt] | None = None
    machine_cores: PositiveInt | None = None


class _TrainedCellEntry(_CellEntry):
    strategy: str
    world_size: PositiveInt
    payload_bytes: NonNegativeInt | None = None
    steps: NonNegativeInt | None = None
    block_steps: PositiveInt | None = None
    server_hosts: list[str] | None = None
    cores_by_host: dict[str, PositiveInt] | None = None
    threads_per_worker: PositiveInt | None = None


class _ShippedCellEntry(_CellEntry):
    file_bytes: PositiveInt
    clients: PositiveInt
    head_host: str | None = None
    head_wire_tx_bytes: NonNegativeInt | None = None


def checked(meta: dict[str, Any]) -> RunEntry:
    """Checks the entry of a run and those of its cells.

    Raises:
        ValueError: a key is missing or has a value of another type; names the first, in one line.
    """
    entry = _checked(RunEntry, meta)
    for index, cell in enumerate(entry.cells):
        kind = _ShippedCellEntry if cell.get("kind") == "shipment" else _TrainedCellEntry
        _checked(kind, cell, f"cells.{index}.")
    return entry


_Kind = TypeVar("_Kind", bound=_Entry)


def _checked(kind: type[_Kind], entry: dict[str, Any], place: str = "") -> _Kind:
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{place}{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
