"""Waiting told apart from communication, on timelines of ranks whose meetings are worked out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade_runs import cell, step, write_run

from distsqz import open_run
from distsqz.cli import report
from distsqz.metering.schema import Record, StepRecord
from distsqz.report.figures import figure
from distsqz.report.tables import CellTable, read_cells

TRANSFER_S = 0.004
PHASES = ["data", "forward", "backward", "optimizer"]
USUAL_S = {"data": 0.001, "forward": 0.006, "backward": 0.012, "optimizer": 0.002}
STEPS = 12

Work = dict[str, np.ndarray]
"""By phase: seconds, step x rank."""


def work(of: dict[str, Any], jitter: float = 0.0, seed: int = 0) -> Work:
    """What each rank computes, each value up to `jitter` of itself longer."""
    draw = np.random.default_rng(seed)
    shape = (STEPS, of["world_size"])
    return {phase: usual * (1 + jitter * draw.random(shape)) for phase, usual in USUAL_S.items()}


def all_reduced(of: dict[str, Any], planned: Work) -> list[Record]:
    """The steps of ranks that meet at the end of each backward pass, and at a barrier before each block."""
    records: list[Record] = []
    now = np.zeros(of["world_size"])
    for index in range(STEPS):
        if index % of["block_steps"] == 0:
            now[:] = now.max()
        arrived = now + sum(planned[phase][index] for phase in PHASES[:3])
        met = arrived.max() + TRANSFER_S
        now = met + planned["optimizer"][index]
        records += records_of(of, index, planned, met - arrived)
    return records


def served(of: dict[str, Any], planned: Work) -> list[Record]:
    """The steps of ranks that wait for parameters in the next forward pass, or at the end of a block."""
    records: list[Record] = []
    now = np.zeros(of["world_size"])
    answer = 0.0
    for index in range(STEPS):
        ready = now + planned["data"][index]
        waited = np.maximum(answer - ready, 0.0)
        pushed = ready + waited + planned["forward"][index] + planned["backward"][index]
        answer = pushed.max() + TRANSFER_S
        now = pushed + planned["optimizer"][index]
        if (index + 1) % of["block_steps"] == 0:
            waited = waited + np.maximum(answer - now, 0.0)
            now = np.maximum(now, answer)
            now[:] = now.max()
        records += records_of(of, index, planned, waited)
    return records


def records_of(of: dict[str, Any], index: int, planned: Work, exposed_s: np.ndarray) -> list[StepRecord]:
    own = {f"{phase}_s": seconds[index] for phase, seconds in planned.items()}
    wall_s = sum(own.values()) + exposed_s
    return [
        step(
            of,
            rank,
            index,
            float(wall_s[rank]),
            exposed_comm_s=float(exposed_s[rank]),
            other_s=0.0,
            **{name: float(seconds[rank]) for name, seconds in own.items()},
        )
        for rank in range(of["world_size"])
    ]


def read(root: Path, of: dict[str, Any], records: list[Record]) -> CellTable:
    (table,) = read_cells(open_run(write_run(root, [of], records)))
    return table


def named(table: CellTable) -> list[tuple[int, str]]:
    return [(late["rank"], late["phase"]) for late in table.row["late_ranks"]]


def parameter_server(**entries: Any) -> dict[str, Any]:
    return cell(strategy="ps", servers=1, consistency="sync", backup_workers=0, **entries)


@pytest.mark.parametrize("block_steps", [1, 2, 12])
@pytest.mark.parametrize("delay_s", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("phase", PHASES)
def test_under_all_reduce_a_delay_is_waiting_and_its_rank_and_phase_are_named(
    tmp_path: Path, phase: str, delay_s: float, block_steps: int
) -> None:
    of = cell(world_size=4, block_steps=block_steps, warmup_steps=0)
    planned = work(of, jitter=0.1)
    planned[phase][:, 2] += delay_s
    row = (table := read(tmp_path, of, all_reduced(of, planned))).row
    assert row["exposed_comm_s"] == pytest.approx(TRANSFER_S)
    assert row["wait_s"] == pytest.approx(delay_s, rel=0.1)
    assert named(table) == [(2, phase)]
    assert row["late_ranks"][0]["host"] == "c"
    assert row["late_ranks"][0]["late_s"] == pytest.approx(delay_s, rel=0.1)


@pytest.mark.parametrize("phase", ["data", "forward", "backward"])
def test_through_a_synchronous_parameter_server_a_delay_is_waiting_too(tmp_path: Path, phase: str) -> None:
    of = parameter_server(world_size=3, block_steps=4, warmup_steps=0)
    on_time = read(tmp_path, of, served(of, work(of, jitter=0.1)))
    planned = work(of, jitter=0.1)
    planned[phase][:, 1] += 0.1
    table = read(tmp_path, of, served(of, planned))
    assert table.row["exposed_comm_s"] == pytest.approx(on_time.row["exposed_comm_s"], abs=0.002)
    assert table.row["wait_s"] == pytest.approx(0.1, rel=0.1)
    assert named(table) == [(1, phase)]
    assert named(on_time) == []


def test_a_step_through_a_parameter_server_takes_its_share_of_the_block(tmp_path: Path) -> None:
    of = parameter_server(world_size=3, block_steps=4, warmup_steps=0)
    planned = work(of)
    planned["forward"][:, 1] += 0.1
    row = read(tmp_path, of, served(of, planned)).row
    own_s = sum(USUAL_S.values()) + 0.1
    assert own_s < row["step_s"] < own_s + TRANSFER_S


def test_two_ranks_of_which_one_sleeps_in_forward(tmp_path: Path) -> None:
    of = cell(warmup_steps=0)
    records: list[Record] = []
    for index in range(6):
        for rank, (forward_s, exposed_s) in enumerate([(0.101, 0.0013), (0.001, 0.1013)]):
            own = {"data_s": 0.0, "forward_s": forward_s, "backward_s": 0.001, "optimizer_s": 0.0}
            walls = sum(own.values()) + exposed_s
            records.append(step(of, rank, index, walls, exposed_comm_s=exposed_s, other_s=0.0, **own))
    row = read(tmp_path, of, records).row
    assert row["exposed_comm_s"] == pytest.approx(0.0013)
    assert row["wait_s"] == pytest.approx(0.1)
    assert row["comm_share"] == pytest.approx(0.0013 / 0.1033)
    assert row["wait_share"] == pytest.approx(0.1 / 2 / 0.1033)


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_named_where_ranks_differ_by_chance_alone(tmp_path: Path, seed: int) -> None:
    of = cell(world_size=4 - seed % 3, warmup_steps=0)
    table = read(tmp_path, of, all_reduced(of, work(of, jitter=1.0, seed=seed)))
    assert named(table) == []
    assert table.row["wait_s"] > 0


def test_a_rank_that_is_late_now_and_then_is_not_named(tmp_path: Path) -> None:
    of = cell(warmup_steps=0)
    planned = work(of)
    planned["data"][::2, 0] += 0.1
    assert named(read(tmp_path, of, all_reduced(of, planned))) == []


def test_every_rank_of_a_slow_host_is_named_the_latest_first(tmp_path: Path) -> None:
    of = cell(world_size=4, warmup_steps=0)
    planned = work(of)
    planned["backward"][:, 0] += 0.05
    planned["backward"][:, 1] += 0.06
    assert named(read(tmp_path, of, all_reduced(of, planned))) == [(1, "backward"), (0, "backward")]


def test_nobody_is_named_after_a_few_steps(tmp_path: Path) -> None:
    of = cell(warmup_steps=0)
    planned = work(of)
    planned["data"][:, 0] += 0.1
    records = [each for each in all_reduced(of, planned) if isinstance(each, StepRecord) and each.step < 4]
    assert named(read(tmp_path, of, list(records))) == []


@pytest.mark.parametrize(
    "of",
    [
        parameter_server(warmup_steps=0) | {"consistency": "async"},
        parameter_server(warmup_steps=0) | {"backup_workers": 1},
        cell(world_size=1, warmup_steps=0),
    ],
    ids=["async", "backup worker", "one worker"],
)
def test_where_ranks_do_not_wait_for_each_other_waiting_is_null(tmp_path: Path, of: dict[str, Any]) -> None:
    row = read(tmp_path, of, all_reduced(of, work(of))).row
    assert [row[key] for key in ("wait_s", "wait_share", "late_ranks")] == [None] * 3
    assert row["exposed_comm_s"] == pytest.approx(TRANSFER_S)


def test_the_report_names_the_late_rank_beside_what_communication_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = cell(warmup_steps=0)
    planned = work(of)
    on_time = write_run(tmp_path, [of], all_reduced(of, planned))
    planned["forward"][:, 1] += 0.1
    late = write_run(tmp_path, [of], all_reduced(of, planned))
    report.main(report.Options(run=(str(late),), format="markdown"))
    assert (
        "Rank 1 (host b) is late in squeezenet-ddp-w2: its own work takes 100 ms a step longer than the "
        "other ranks' (forward pass: 100 ms). The other ranks wait 100 ms a step for it; exposed "
        "communication is 4.0 ms."
    ) in capsys.readouterr().out
    report.main(report.Options(run=(str(on_time),)))
    assert "is late" not in capsys.readouterr().out


def cells_of_every_kind(root: Path) -> list[CellTable]:
    """All-reduce, a parameter server, one without synchronous steps, and one that has measured nothing."""
    kinds = [
        cell(world_size=4),
        parameter_server(world_size=3, block_steps=4),
        parameter_server() | {"consistency": "async"},
        cell(),
    ]
    cells = [of | {"cell": str(index), "warmup_steps": 0} for index, of in enumerate(kinds)]
    makers = [all_reduced, served, served]
    records = [
        record for of, make in zip(cells, makers, strict=False) for record in make(of, work(of, jitter=1.0))
    ]
    return read_cells(open_run(write_run(root, cells, records)))


def test_the_figure_shows_the_table_s_step_times_and_intervals(tmp_path: Path) -> None:
    cells = cells_of_every_kind(tmp_path)
    _, times = figure(cells).axes
    ends_ms = [max(bar.get_x() + bar.get_width() for bar in bars_of(times, row)) for row in range(len(cells))]
    assert ends_ms == pytest.approx([(table.row["step_s"] or 0.0) * 1e3 for table in cells])
    intervals_ms = [segment[:, 0].tolist() for lines in times.collections for segment in lines.get_segments()]
    known = [table.row["step_s_ci95"] for table in cells if table.row["step_s_ci95"]]
    assert len(known) == 3
    assert intervals_ms == [pytest.approx([end * 1e3 for end in ends]) for ends in known]


def test_the_figure_shows_the_table_s_shares_of_communication_and_waiting(tmp_path: Path) -> None:
    cells = cells_of_every_kind(tmp_path)[:2]
    _, times = figure(cells).axes
    for row, table in enumerate(cells):
        step_ms = table.row["step_s"] * 1e3
        *_, waiting, communication, _, _ = (bar.get_width() / step_ms for bar in bars_of(times, row))
        assert waiting == pytest.approx(table.row["wait_share"])
        assert communication == pytest.approx(table.row["comm_share"])
        assert waiting > 0 < communication


def bars_of(axes: Any, row: int) -> list[Any]:
    return [bar for bar in axes.patches if round(bar.get_y() + bar.get_height() / 2) == row]
