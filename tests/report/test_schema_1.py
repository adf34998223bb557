"""A real run of schema 1, written and reported by distsqz at commit f8fe3b6."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distsqz import open_run
from distsqz.metering.schema import TABLES
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import read_sections, render_report
from distsqz.runs.arrow import schema_of
from distsqz.runs.reader import Run

DEFINED_OTHERWISE_SINCE = {
    "exposed_comm_s",  # waiting for late ranks is no longer part of it
    "comm_share",
    "bytes_ratio",  # of strategies
}

FOLDER = Path(__file__).parents[1] / "data" / "schema_1"


@pytest.fixture(scope="module")
def run() -> Run:
    """SqueezeNet and AlexNet under all-reduce and a parameter server, 2 workers, 2 steps."""
    return open_run(FOLDER / "run")


def test_a_run_of_schema_1_is_reported_with_the_figures_that_its_own_version_printed(run: Run) -> None:
    printed = json.loads((FOLDER / "report.json").read_text())
    measured = [MeasuredRun(run)]
    now = json.loads(render_report(measured, read_sections(measured), "json"))
    assert len(printed["cells"]) == 4
    for part in ("cells", "comparisons", "strategy_comparisons"):
        for then, later in zip(printed[part], now[part], strict=True):
            same = then.keys() - (DEFINED_OTHERWISE_SINCE if part != "comparisons" else set())
            assert {key: later[key] for key in same} == {key: then[key] for key in same}
    for key in ("run_id", "started_at", "status", "links"):
        assert now["runs"][0][key] == printed["runs"][0][key]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_schema_1_is_read_with_the_columns_of_today(run: Run, table: str) -> None:
    assert (run.path / f"{table}.parquet").is_file()
    assert run.table(table).schema.equals(schema_of(TABLES[table]))


def test_a_whole_run_of_schema_1_has_no_faults(run: Run) -> None:
    assert run.faults() == []
