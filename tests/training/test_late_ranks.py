"""Delays planted in real training: waiting, not communication, and named by rank and phase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from group import run_group

from distsqz import open_run
from distsqz.metering.schema import TABLES
from distsqz.report.tables import read_cells
from distsqz.runs.writer import COMPLETE, RunWriter
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

MODELS = "benchmarks.lateness.planted"
ALL_REDUCE, SERVER = AllReduce(), ParameterServer(ServerOptions(servers=1, placement="dedicated"))
OPTIONS = TrainingOptions(
    image_size=32, num_classes=10, batch_size=2, steps=10, warmup_steps=2, block_steps=5, threads=1
)


def measure(
    models: Sequence[str], world_size: int, folder: Path, strategies: Sequence[Strategy]
) -> dict[tuple[str, str], dict[str, Any]]:
    """The report's rows by model and strategy, of one session without Ray."""
    plan, entries = plan_session([f"{MODELS}:{model}" for model in models], world_size, OPTIONS, strategies)
    boxes = run_group(plan, world_size, folder)
    run = RunWriter.create(folder / "runs", "late", ["test"], {}, entries, tables=TABLES)
    for cell, facts in boxes[0].facts.items():
        run.describe_cell(cell, facts)
    for box in boxes:
        for table, records in box.records.items():
            run.append(table, records)
    run.finish(COMPLETE)
    rows = [table.row for table in read_cells(open_run(run.path))]
    return {(row["model"].removeprefix(f"{MODELS}:"), row["strategy"]): row for row in rows}


def named(row: dict[str, Any]) -> list[tuple[int, str]]:
    return [(late["rank"], late["phase"]) for late in row["late_ranks"]]


def test_a_delay_in_each_phase_is_waiting_and_named(tmp_path: Path) -> None:
    late = {f"{phase}_60ms_on_rank_1": phase for phase in ("data", "forward", "backward", "optimizer")}
    rows = measure(["on_time_0", *late], 2, tmp_path, [ALL_REDUCE, SERVER])
    for strategy in ("ddp", "ps"):
        on_time = rows["on_time_0", strategy]
        assert named(on_time) == []
        for model, phase in late.items():
            if (strategy, phase) == ("ps", "optimizer"):
                continue  # servers update: a worker has no optimizer
            row = rows[model, strategy]
            assert named(row) == [(1, phase)]
            assert 0.05 < row["wait_s"] < 0.09
            assert row["exposed_comm_s"] < on_time["exposed_comm_s"] + 0.02


@pytest.mark.slow
def test_delays_of_20_to_500_ms_on_one_of_four_ranks_are_named(tmp_path: Path) -> None:
    late = {
        f"{phase}_{delay_ms}ms_on_rank_{rank}": (rank, phase, delay_ms)
        for rank, phase in enumerate(("data", "forward", "backward", "optimizer"))
        for delay_ms in (20, 100, 500)
    }
    rows = measure(["on_time_0", *late], 4, tmp_path, [ALL_REDUCE])
    assert named(rows["on_time_0", "ddp"]) == []
    for model, (rank, phase, delay_ms) in late.items():
        row = rows[model, "ddp"]
        assert named(row) == [(rank, phase)]
        assert row["late_ranks"][0]["late_s"] == pytest.approx(delay_ms / 1e3, rel=0.15)
