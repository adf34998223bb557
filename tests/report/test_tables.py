"""Cells: figures that were worked out by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade_runs import (
    SQUEEZENET_BYTES,
    cell,
    evaluation,
    link,
    step,
    steps,
    transfer,
    write_run,
)

from distsqz import open_run
from distsqz.metering.schema import TABLES, Record
from distsqz.report.instruments import combined
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import read_sections, render_report
from distsqz.report.tables import (
    hosts_by_rate,
    read_cells,
    read_links,
)
from distsqz.runs.arrow import schema_of
from distsqz.runs.columns import Column


def read(root: Path, cells: list[dict[str, Any]], records: list[Record]) -> list[dict[str, Any]]:
    return [table.row for table in read_cells(open_run(write_run(root, cells, records)))]


def read_one(root: Path, of: dict[str, Any], records: list[Record]) -> dict[str, Any]:
    (row,) = read(root, [of], records)
    return row


def test_a_step_takes_as_long_as_its_slowest_rank_and_warm_up_is_left_out(tmp_path: Path) -> None:
    of = cell()
    walls = {1: (1.0, 2.0), 2: (2.0, 1.0), 3: (3.0, 5.0)}
    records = [step(of, rank, 0, 100.0) for rank in (0, 1)]
    records += [
        step(of, rank, index, wall) for index, pair in walls.items() for rank, wall in enumerate(pair)
    ]
    row = read_one(tmp_path, of, records)
    assert row["steps"] == 3
    assert row["planned_steps"] == 4
    assert row["step_s"] == 2.0
    assert row["step_s_ci95"] == [2.0, 5.0]
    assert row["compute_s"] == pytest.approx(0.5 * 1.5)
    assert row["exposed_comm_s"] == pytest.approx(0.4 * 1.0)
    assert row["samples_per_s"] == pytest.approx(3 * 2 * 16 / 9.0)


def test_shares_are_of_the_slowest_rank_s_time(tmp_path: Path) -> None:
    of = cell()
    records = [
        step(of, 0, 1, 1.0, exposed_comm_s=0.5, sched_wait_s=0.2),
        step(of, 1, 1, 3.0, exposed_comm_s=0.5, sched_wait_s=0.0),
    ]
    row = read_one(tmp_path, of, records)
    assert row["comm_share"] == pytest.approx(0.5 / 3)
    assert row["wait_share"] == pytest.approx((2 + 0) / 2 / 3)
    assert row["sched_wait_share"] == pytest.approx(0.2 / 4)


def test_bytes_are_means_over_steps_and_ranks(tmp_path: Path) -> None:
    of = cell(payload_bytes=1000)
    sent = [(0, 1, 1010), (1, 1, 1030), (0, 2, 1010), (1, 2, 1030)]
    records = [step(of, rank, index, tcp_tx_bytes=tx) for rank, index, tx in sent]
    row = read_one(tmp_path, of, records)
    assert row["predicted_tx_bytes"] == 1000
    assert row["tcp_tx_bytes"] == 1020
    assert row["tcp_vs_predicted"] == pytest.approx(0.02)
    assert row["logical_tx_bytes"] == 1000
    assert row["nic_tx_bytes"] == 10000


def test_bytes_on_the_wire_are_told_for_each_byte_of_tcp_payload(tmp_path: Path) -> None:
    of = cell(payload_bytes=1000)
    sent = [(0, 1, 1040), (1, 1, 1060), (0, 2, 1050), (1, 2, 1038)]
    records = [step(of, rank, index, tcp_tx_bytes=1000, wire_tx_bytes=tx) for rank, index, tx in sent]
    row = read_one(tmp_path, of, records)
    assert row["wire_tx_bytes"] == 1047
    assert row["wire_vs_tcp"] == pytest.approx(1.047)


def test_bytes_on_the_wire_of_a_host_are_not_held_against_one_rank_of_several(tmp_path: Path) -> None:
    of = cell(hosts=["a", "a"])
    row = read_one(tmp_path, of, steps(of, [1.0], wire_tx_bytes=5000))
    assert row["wire_tx_bytes"] == 5000
    assert row["wire_vs_tcp"] is None


def test_bus_bandwidth_is_held_against_the_goodput_of_the_slowest_link(tmp_path: Path) -> None:
    of = cell(payload_bytes=45_000_000)
    records = [*steps(of, [1.0]), *(transfer(of, rank, 1, 0.0, 0.5) for rank in (0, 1))]
    records += [link(0, 1, 120e6, rtt_us=70), link(1, 2, 100e6, rtt_us=90), link(2, 0, 118e6, rtt_us=200)]
    row = read_one(tmp_path, of, records)
    assert row["busbw_bytes_per_s"] == pytest.approx(90e6)
    assert row["goodput_bytes_per_s"] == 100e6
    assert row["busbw_vs_goodput"] == pytest.approx(0.9)
    assert row["rtt_us"] == 90


def test_links_are_read_in_the_order_of_the_ring(tmp_path: Path) -> None:
    path = write_run(tmp_path, [cell()], [link(1, 2, 2e6), link(0, 1, 1e6), link(2, 0, 3e6)])
    assert [(row["host"], row["goodput_bytes_per_s"]) for row in read_links(open_run(path))] == [
        ("h0", 1e6),
        ("h1", 2e6),
        ("h2", 3e6),
    ]


def test_what_could_not_be_read_is_none_and_not_zero(tmp_path: Path) -> None:
    of = cell()
    columns = ["tcp_tx_bytes", "predicted_tx_bytes", "nic_tx_bytes", "sched_wait_s", "exposed_comm_s"]
    row = read_one(tmp_path, of, steps(of, [1.0] * 4, **dict.fromkeys(columns)))
    names = ["tcp_tx_bytes", "predicted_tx_bytes", "tcp_vs_predicted", "nic_tx_bytes", "exposed_comm_s"]
    names += [
        "comm_share",
        "wait_s",
        "wait_share",
        "late_ranks",
        "sched_wait_share",
        "busbw_bytes_per_s",
        "accuracy",
    ]
    names += ["wire_tx_bytes", "wire_vs_tcp", "goodput_bytes_per_s", "busbw_vs_goodput", "rtt_us"]
    assert {name: row[name] for name in names} == dict.fromkeys(names)
    assert row["step_s"] == 1.0


def test_bus_bandwidth_divides_the_ring_s_bytes_by_the_union_of_the_last_rank_s_transfers(
    tmp_path: Path,
) -> None:
    of = cell()
    records = [
        *steps(of, [1.0]),
        transfer(of, 0, 1, 0.1, 0.5, buckets=2),
        transfer(of, 0, 1, 0.3, 0.7, bucket=1, buckets=2),
        transfer(of, 1, 1, 0.2, 0.4, buckets=2),
        transfer(of, 1, 1, 0.5, 0.6, bucket=1, buckets=2),
    ]
    assert read_one(tmp_path, of, records)["busbw_bytes_per_s"] == pytest.approx(SQUEEZENET_BYTES / 0.3)


def test_bus_bandwidth_counts_a_transfer_inside_another_once_and_takes_the_median_step(
    tmp_path: Path,
) -> None:
    of = cell(world_size=4)
    records: list[Record] = [*steps(of, [1.0] * 3)]
    for rank in range(4):
        for index, seconds in ((1, 0.2), (2, 0.5), (3, 0.9)):
            records.append(transfer(of, rank, index, 0.0, seconds, buckets=2))
            records.append(transfer(of, rank, index, 0.05, 0.1, bucket=1, buckets=2))
    bandwidth = read_one(tmp_path, of, records)["busbw_bytes_per_s"]
    assert bandwidth == pytest.approx(2 * 3 / 4 * SQUEEZENET_BYTES / 0.5)


def test_no_bus_bandwidth_for_one_worker_or_where_the_end_of_a_transfer_is_unknown(tmp_path: Path) -> None:
    alone, pair = cell(world_size=1), cell()
    records = [*steps(alone, [1.0]), transfer(alone, 0, 1, 0.0, 0.1)]
    records += [*steps(pair, [1.0]), *(transfer(pair, rank, 1, 0.0, None) for rank in (0, 1))]
    rows = read(tmp_path, [alone, pair], records)
    assert [row["busbw_bytes_per_s"] for row in rows] == [None, None]


def test_a_step_done_again_after_a_restart_counts_once(tmp_path: Path) -> None:
    of = cell()
    records = [
        *steps(of, [9.0, 9.0]),
        *(transfer(of, rank, 2, 0.0, 0.9) for rank in (0, 1)),
        *(
            step(of, rank, 2, 1.0, attempt=1, t_start_ns=steps(of, [1.0])[0].t_start_ns + 60 * 10**9)
            for rank in (0, 1)
        ),
        *(transfer(of, rank, 2, 58.0, 58.5) for rank in (0, 1)),
    ]
    row = read_one(tmp_path, of, records)
    assert row["steps"] == 2
    assert row["step_s"] == 5.0
    assert row["busbw_bytes_per_s"] == pytest.approx(SQUEEZENET_BYTES / 0.5)


def test_a_step_that_a_rank_has_not_reported_does_not_count_yet(tmp_path: Path) -> None:
    of = cell()
    row = read_one(tmp_path, of, [*steps(of, [1.0, 1.0]), step(of, 0, 3, 50.0)])
    assert row["steps"] == 2
    assert row["step_s"] == 1.0


def test_a_cell_without_steps_keeps_its_description_and_has_no_figures(tmp_path: Path) -> None:
    row = read_one(tmp_path, cell(), [])
    assert (row["params"], row["payload_bytes"], row["steps"]) == (1_248_424, SQUEEZENET_BYTES, 0)
    measured = [
        "predicted_tx_bytes",
        "tcp_tx_bytes",
        "tcp_vs_predicted",
        "step_s",
        "step_s_ci95",
        "compute_s",
    ]
    measured += [
        "exposed_comm_s",
        "comm_share",
        "wait_s",
        "wait_share",
        "late_ranks",
        "samples_per_s",
        "busbw_bytes_per_s",
        "sched_wait_share",
    ]
    assert {name: row[name] for name in measured} == dict.fromkeys(measured)


def test_a_cell_known_by_little_more_than_its_name_is_read(tmp_path: Path) -> None:
    bare = {"cell": "x", "model": "x", "strategy": "ddp", "world_size": 2}
    row = read_one(tmp_path, bare, [])
    assert row["payload_bytes"] is None
    assert row["oversubscribed"] is None


def test_accuracy_is_that_of_the_last_evaluation(tmp_path: Path) -> None:
    of = cell()
    assert read_one(tmp_path, of, [evaluation(of, 2, 0.5), evaluation(of, 4, 0.75)])["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("entries", "wait_share", "expected"),
    [
        ({"threads_per_worker": 2}, 0.01, False),
        ({"threads_per_worker": 3}, 0.01, True),
        ({"hosts": ["a", "a"], "threads_per_worker": 2}, 0.01, True),
        ({"hosts": ["a", "a"], "threads_per_worker": 1}, 0.01, False),
        ({"emulated": True, "machine_cores": 3, "threads_per_worker": 2}, 0.01, True),
        ({"emulated": True, "machine_cores": 4, "threads_per_worker": 2}, 0.01, False),
        ({"emulated": True, "machine_cores": 4, "threads_per_worker": 2}, 0.06, True),
        ({"emulated": True, "machine_cores": 2, "cores_by_host": {"a": 1, "b": 1}}, 0.01, False),
        ({"emulated": True, "threads_per_worker": 2}, 0.01, False),
        ({"emulated": True, "threads_per_worker": 2}, None, None),
        ({"emulated": False, "machine_cores": 2, "threads_per_worker": 2}, 0.01, False),
        ({}, 0.06, True),
        ({"cores_by_host": None}, 0.06, True),
        ({"cores_by_host": None}, 0.01, False),
        ({"cores_by_host": None}, None, None),
    ],
)
def test_cores_are_oversubscribed_by_plan_or_by_what_the_scheduler_saw(
    tmp_path: Path, entries: dict[str, Any], wait_share: float | None, expected: bool | None
) -> None:
    of = cell(**entries)
    assert read_one(tmp_path, of, steps(of, [1.0], sched_wait_s=wait_share))["oversubscribed"] is expected


def test_rates_are_those_of_the_hosts_that_took_part() -> None:
    rates = {"a": 10**9, "b": 10**8, "c": 10**9, "d": 10**7}
    of = cell(world_size=3, emulated_rate_bits_per_s=rates)
    assert hosts_by_rate(of) == {10**9: ["a", "c"], 10**8: ["b"]}
    assert hosts_by_rate(cell(emulated_rate_bits_per_s=None)) == {}


def test_a_run_written_before_a_column_or_a_table_existed_is_read_as_if_nothing_was_known(
    tmp_path: Path,
) -> None:
    of = cell()
    path = write_run(tmp_path, [of], [*steps(of, [1.0], wire_tx_bytes=1, nic_tx_bytes=7), link(0, 1, 1e6)])
    shutil.rmtree(path / "links.parquet")
    (part,) = (path / "steps.parquet").iterdir()
    table = pq.ParquetFile(part).read()
    newer = ["wire_tx_bytes", "wire_rx_bytes", "wire_tx_packets", "wire_rx_packets"]
    pq.write_table(table.drop_columns(newer), part)
    run = open_run(path)
    assert all(run.table(name).schema.equals(schema_of(TABLES[name])) for name in TABLES)
    assert run.table("links").num_rows == 0
    read_back = run.table("steps")
    assert read_back.drop_columns(newer).equals(table.drop_columns(newer))
    assert {name: read_back[name].null_count for name in newer} == dict.fromkeys(newer, 4)
    (row,) = (of_run.row for of_run in read_cells(run))
    assert (row["nic_tx_bytes"], row["wire_tx_bytes"], row["goodput_bytes_per_s"]) == (7, None, None)


@pytest.mark.parametrize(("first_s", "told"), [(0.5, False), (0.1, True)])
def test_a_bound_is_held_against_the_rank_that_launched_first(
    tmp_path: Path, first_s: float, told: bool
) -> None:
    """A late rank's own transfers may be shorter: the others have sent some of their bytes before."""
    of = cell(hosts=["a", "b"])
    flights = [transfer(of, 0, 1, 0.1, 0.1 + first_s), transfer(of, 1, 1, 0.5, 0.6)]
    links = [replace(link(0, 1, of["payload_bytes"] / 0.4), host="a", peer_host="b")]
    (found,) = read_cells(open_run(write_run(tmp_path, [of], [*steps(of, [1.0]), *flights, *links])))
    assert found.row["bound_s"] == pytest.approx(0.4)
    assert found.row["comm_s"] == pytest.approx(0.1)
    assert (("comm_s", "bound_s") in {breach.views for breach in found.breaches}) == told


def with_unknown_instrument(path: Path, watts: dict[int, float]) -> Path:
    """A run as a program with one more instrument would have written it: watts by rank in every step."""
    (part,) = (path / "steps.parquet").iterdir()
    table = pq.ParquetFile(part).read()
    column = pa.array([watts[rank] for rank in table["rank"].to_pylist()])
    pq.write_table(table.append_column("gpu_power_w", column), part)
    meta = json.loads((path / "run.json").read_text())
    meta["columns"]["steps"].append(
        {
            "name": "gpu_power_w",
            "type": "float",
            "nullable": True,
            "meaning": "Mean power of the GPU.",
            "unit": "watts",
            "combine": "sum",
            "heading": "gpu_power",
        }
    )
    (path / "run.json").write_text(json.dumps(meta))
    return path


def test_an_instrument_unknown_to_this_program_is_reported_as_its_run_declares_it(tmp_path: Path) -> None:
    of = cell()
    run = open_run(
        with_unknown_instrument(write_run(tmp_path, [of], steps(of, [1.0] * 4)), {0: 100.0, 1: 150.0})
    )
    cells = read_cells(run)
    assert cells[0].row["gpu_power_w"] == 250.0
    text = render_report([measured := MeasuredRun(run)], read_sections([measured]), "table")
    assert "Gpu power: sum over the ranks" in text
    assert run.columns("steps")[-1].meaning == "Mean power of the GPU."


def test_columns_are_combined_over_ranks_as_they_declare() -> None:
    frame = pd.DataFrame({"step": [0, 0, 1, 1], "a": [1.0, 3.0, 5.0, 7.0], "b": [1.0, None, 5.0, 7.0]})
    declared = [
        Column(name=name, type="float", nullable=True, meaning="", combine=combine)
        for name in ("a", "b")
        for combine in ("mean", "sum", "max")
    ]
    figures = [combined(frame, [column])[column.name] for column in declared]
    assert figures == [4.0, 8.0, 5.0, None, None, None]
