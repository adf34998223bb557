"""Which rows count: no warm-up in any table, whole blocks of a parameter server, runs of every age."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handmade_runs import cell, push, step, steps, update, write_run

from distsqz import open_run
from distsqz.metering.schema import Record
from distsqz.report.measured import measured_steps, measured_updates
from distsqz.report.tables import read_cells, read_shards, staleness_histogram
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, FAILED, RUNNING


def ps_cell(**entries: Any) -> dict[str, Any]:
    """A cell under a parameter server of two shards."""
    plain = {"cell": "squeezenet-ps-w2", "strategy": "ps", "servers": 2, "consistency": "sync"}
    return cell(**plain | {"block_steps": 50, "steps": 200} | entries)


def measured(root: Path, of: dict[str, Any], records: list[Record], status: str = COMPLETE) -> list[int]:
    """The steps that count."""
    rows = measured_steps(open_run(write_run(root, [of], records, status)))
    return sorted(rows["step"].unique())


def late_in_tcp(of: dict[str, Any], number: int) -> list[Record]:
    """So many measured steps, the last of which has half of its bytes still to send."""
    made: list[Record] = list(steps(of, [1.0] * (number - 1)))
    last = of["warmup_steps"] + number - 1
    half = {"tcp_tx_bytes": of["payload_bytes"] // 2}
    return made + [step(of, rank, last, **half) for rank in range(of["world_size"])]


@pytest.mark.parametrize("status", [RUNNING, FAILED])
def test_a_parameter_server_is_unknown_until_its_first_block_is_whole(tmp_path: Path, status: str) -> None:
    of = ps_cell()
    path = write_run(tmp_path, [of], late_in_tcp(of, 9), status)
    (table,) = read_cells(open_run(path))
    assert (table.row["steps"], table.row["tcp_tx_bytes"], table.row["tcp_vs_predicted"]) == (0, None, None)
    assert table.breaches == []


@pytest.mark.parametrize(
    ("made", "counted"), [(49, 0), (50, 50), (59, 50), (100, 100), (199, 150), (200, 200)]
)
def test_whole_blocks_of_a_parameter_server_count(tmp_path: Path, made: int, counted: int) -> None:
    of = ps_cell()
    first = of["warmup_steps"]
    rows = measured(tmp_path, of, list(steps(of, [1.0] * made)), RUNNING)
    assert rows == list(range(first, first + counted))


def test_a_last_block_that_is_shorter_counts_once_the_planned_steps_are_made(tmp_path: Path) -> None:
    of = ps_cell(steps=120)
    assert len(measured(tmp_path / "119", of, list(steps(of, [1.0] * 119)), FAILED)) == 100
    assert len(measured(tmp_path / "120", of, list(steps(of, [1.0] * 120)), FAILED)) == 120


def test_a_complete_run_counts_every_step(tmp_path: Path) -> None:
    of = ps_cell(steps=9)
    assert len(measured(tmp_path, of, list(steps(of, [1.0] * 9)))) == 9


def test_all_reduce_under_way_counts_every_step(tmp_path: Path) -> None:
    """Nothing of a step is under way once its backward pass is over."""
    of = cell(block_steps=50, steps=200)
    assert len(measured(tmp_path, of, list(steps(of, [1.0] * 9)), RUNNING)) == 9


def test_a_step_counts_once_every_rank_has_reported_it(tmp_path: Path) -> None:
    of = cell(block_steps=50, steps=200)
    records = [record for record in steps(of, [1.0] * 9) if (record.rank, record.step) != (1, 9)]
    assert measured(tmp_path, of, list(records), RUNNING) == list(range(1, 9))


def test_of_a_step_that_was_made_again_the_last_attempt_counts(tmp_path: Path) -> None:
    of = cell(steps=3)
    records = list(steps(of, [1.0] * 3)) + [step(of, rank, 3, 7.0, attempt=1) for rank in (0, 1)]
    rows = measured_steps(open_run(write_run(tmp_path, [of], records)))
    assert list(rows[rows["step"] == 3]["wall_s"]) == [7.0, 7.0]
    assert len(rows) == 6


BIG_CHUNKS = [352_156] * 11 + [352_116]
"""A model of 1,056,458 parameters in 12 chunks."""


def big_run(root: Path, older: bool = False, **entries: Any) -> Run:
    """Five steps of warm-up and six measured ones of two workers and two shards.

    Args:
        root: where the run goes.
        older: updates are recorded without the worker's step.
        entries: of the cell.
    """
    of = ps_cell(warmup_steps=5, steps=6, block_steps=2, **entries)
    records: list[Record] = list(steps(of, [1.0] * 6))
    for index in range(11):
        for rank in (0, 1):
            for chunk, size in enumerate(BIG_CHUNKS):
                records.append(push(of, rank, index, chunk, size))
                made = update(of, rank, index, chunk, staleness=int(index < 5))
                records.append(replace(made, step=None) if older else made)
    return open_run(write_run(root, [of], records))


@pytest.mark.parametrize("older", [False, True])
def test_warm_up_is_in_no_table_of_a_parameter_server(tmp_path: Path, older: bool) -> None:
    """A run without the worker's step tells it by the version of the parameters, under sync."""
    run = big_run(tmp_path, older)
    shards = [(row["shard"], row["pushes"], row["received_bytes"]) for row in read_shards(run)]
    assert shards == [(0, 72, 25_355_232), (1, 72, 25_354_752)]
    (of_staleness,) = staleness_histogram(run)
    assert (of_staleness["staleness"], of_staleness["updates"], of_staleness["share"]) == (0, 144, 1.0)
    assert read_cells(run)[0].row["staleness_mean"] == 0


def test_every_update_counts_where_an_older_run_cannot_tell_its_step(tmp_path: Path) -> None:
    """Under async the version of the parameters is not the worker's step."""
    assert len(measured_updates(big_run(tmp_path, True, consistency="async"))) == 11 * 2 * 12
    assert len(measured_updates(big_run(tmp_path, consistency="async"))) == 6 * 2 * 12
