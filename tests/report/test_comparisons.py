"""Comparisons of cells: ratios that were worked out by hand, and what keeps cells from being compared."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from handmade_runs import ALEXNET_BYTES, SQUEEZENET_BYTES, cell, link, steps, write_run

from distsqz import open_run
from distsqz.metering.schema import Record
from distsqz.report.comparisons import compare_models, compare_options, compare_strategies
from distsqz.report.tables import CellTable, read_cells
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.training.options import TrainingOptions

SERVER = {"strategy": "ps", "servers": 2, "placement": "colocated", "consistency": "sync", "staleness": 0}
SERVER |= {"backup_workers": 0, "server_hosts": ["a", "b"]}


def compared(root: Path, cells: list[dict[str, Any]], records: list[Record]) -> list[dict[str, Any]]:
    return compare_models(read_cells(open_run(write_run(root, cells, records))))


def alone(
    root: Path, of: dict[str, Any], links: list[Record] | None = None, **environment: Any
) -> list[CellTable]:
    """A run of one cell; `environment` replaces parts of what its run.json tells of the machine."""
    path = write_run(root, [of], [*steps(of, [of["payload_bytes"] / SQUEEZENET_BYTES] * 4), *(links or [])])
    meta = json.loads((path / "run.json").read_text())
    meta["environment"] |= environment
    (path / "run.json").write_text(json.dumps(meta))
    return read_cells(open_run(path))


def across(small: list[CellTable], large: list[CellTable]) -> dict[str, Any]:
    (row,) = compare_models([*small, *large], across_runs=True)
    return row


def test_the_smallest_model_is_compared_with_each_larger_under_the_same_strategy_and_workers(
    tmp_path: Path,
) -> None:
    small, large = cell("squeezenet"), cell("alexnet")
    middle = small | {"cell": "complex", "model": "squeezenet-complex", "payload_bytes": 6_358_688}
    alone = cell("alexnet", world_size=1)
    cells = [large, small, alone, middle]
    rows = compared(tmp_path, cells, [record for of in cells for record in steps(of, [1.0] * 3)])
    assert [(row["world_size"], row["small"], row["large"]) for row in rows] == [
        (2, "squeezenet", "squeezenet-complex"),
        (2, "squeezenet", "alexnet"),
    ]


def test_bytes_ratio_is_of_measured_tcp_bytes(tmp_path: Path) -> None:
    small, large = cell("squeezenet"), cell("alexnet")
    (row,) = compared(tmp_path, [small, large], [*steps(small, [1.0]), *steps(large, [1.0])])
    assert row["bytes_ratio"] == pytest.approx((ALEXNET_BYTES + 500) / (SQUEEZENET_BYTES + 500))
    assert row["bytes_source"] == "tcp"


def test_bytes_ratio_falls_back_to_the_prediction_and_says_so(tmp_path: Path) -> None:
    small, large = cell("squeezenet"), cell("alexnet")
    records = [*steps(small, [1.0], tcp_tx_bytes=None), *steps(large, [1.0])]
    (row,) = compared(tmp_path, [small, large], records)
    assert row["bytes_ratio"] == pytest.approx(ALEXNET_BYTES / SQUEEZENET_BYTES)
    assert row["bytes_source"] == "predicted"


def test_step_ratio_pairs_the_blocks_so_that_a_drifting_machine_cancels_out(tmp_path: Path) -> None:
    small, large = cell("squeezenet", block_steps=2), cell("alexnet", block_steps=2)
    drift = [float(wall) for wall in (1, 2, 4, 3, 5, 2) for _ in range(2)]
    records = [*steps(small, drift), *steps(large, [3 * wall for wall in drift])]
    (row,) = compared(tmp_path, [small, large], records)
    assert row["pairs"] == 6
    assert row["paired"] is True
    assert [row["step_ratio"], *row["step_ratio_ci95"]] == pytest.approx([3.0] * 3)


def test_step_ratio_is_of_the_means_of_blocks_counted_from_the_first_measured_step(tmp_path: Path) -> None:
    small, large = cell("squeezenet", block_steps=2), cell("alexnet", block_steps=2)
    records = [*steps(small, [1.0, 3.0, 1.0, 1.0]), *steps(large, [1.0, 7.0, 4.0, 4.0])]
    (row,) = compared(tmp_path, [small, large], records)
    assert row["step_ratio"] == pytest.approx((2.0 * 4.0) ** 0.5)
    assert row["step_ratio_ci95"] is None


def test_blocks_that_only_one_model_has_reached_are_not_paired(tmp_path: Path) -> None:
    small, large = cell("squeezenet"), cell("alexnet")
    (row,) = compared(tmp_path, [small, large], [*steps(small, [1.0] * 9), *steps(large, [2.0] * 4)])
    assert row["pairs"] == 4


def test_models_without_steps_are_compared_to_nulls(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, [cell("squeezenet"), cell("alexnet")], [])
    assert (row["bytes_ratio"], row["bytes_source"], row["step_ratio"], row["step_ratio_ci95"]) == (None,) * 4


def test_a_cell_known_by_little_more_than_its_name_is_not_compared(tmp_path: Path) -> None:
    bare = {"cell": "x", "model": "x", "strategy": "ddp", "world_size": 2}
    assert compared(tmp_path, [bare], []) == []


def test_the_smaller_model_that_is_alike_is_compared_before_a_smaller_one_that_is_not(tmp_path: Path) -> None:
    names = {"odd": {"lr": 0.5}, "even": {"lr": 0.1}}
    cells = [cell("squeezenet", cell=f"{name}-small", **entries) for name, entries in names.items()]
    cells += [cell("alexnet", cell=f"{name}-large", **entries) for name, entries in names.items()]
    rows = compared(tmp_path, cells, [record for of in cells for record in steps(of, [1.0] * 3)])
    assert [(row["small_cell"], row["large_cell"], row["differences"]) for row in rows] == [
        ("odd-small", "odd-large", []),
        ("even-small", "even-large", []),
    ]


OPTIONS = {field.name for field in fields(TrainingOptions)}
OF_THE_MODEL = {"squeeze_ratio", "pct_3x3"}
OF_LENGTH = {"steps", "epochs"}
ASKED_FOR = {"threads"}
"""`threads_per_worker` tells what it came to."""


@pytest.mark.parametrize("option", sorted(OPTIONS - OF_THE_MODEL - OF_LENGTH - ASKED_FOR))
def test_every_option_of_training_makes_step_times_of_a_run_incomparable(tmp_path: Path, option: str) -> None:
    small, large = cell("squeezenet", **{option: 3}), cell("alexnet", **{option: 4})
    (row,) = compared(tmp_path, [small, large], [*steps(small, [1.0] * 3), *steps(large, [2.0] * 3)])
    assert row["differences"] == [f"{option} 3 and 4"]
    assert (row["step_ratio"], row["step_ratio_ci95"], row["paired"], row["pairs"]) == (
        None,
        None,
        False,
        None,
    )


@pytest.mark.parametrize("option", sorted(OF_THE_MODEL | OF_LENGTH | ASKED_FOR))
def test_the_model_s_own_shape_and_the_length_of_a_run_do_not(tmp_path: Path, option: str) -> None:
    small, large = cell("squeezenet", **{option: 3}), cell("alexnet", **{option: 4})
    (row,) = compared(tmp_path, [small, large], [*steps(small, [1.0] * 3), *steps(large, [2.0] * 3)])
    assert row["differences"] == []
    assert row["step_ratio"] == pytest.approx(2.0)


TWO_VALUES: dict[str, tuple[Any, Any]] = {
    "servers": (1, 2),
    "placement": ("colocated", "dedicated"),
    "consistency": ("async", "ssp"),
    "staleness": (1, 2),
    "backup_workers": (1, 0),
}


@pytest.mark.parametrize("option", sorted({field.name for field in fields(ServerOptions)}))
def test_every_option_of_a_parameter_server_makes_bytes_incomparable_too(tmp_path: Path, option: str) -> None:
    ssp = {"consistency": "ssp"} if option == "staleness" else {}
    small, large = (cell(model, **SERVER | ssp) for model in ("squeezenet", "alexnet"))
    one, other = TWO_VALUES[option]
    small[option], large[option] = one, other
    (row,) = compared(tmp_path, [small, large], [*steps(small, [1.0] * 3), *steps(large, [2.0] * 3)])
    assert row["differences"] == [f"{option} {one} and {other}"]
    assert (row["step_ratio"], row["bytes_ratio"]) == (None, None)


def test_runs_of_one_cell_each_that_are_alike_are_compared_unpaired(tmp_path: Path) -> None:
    small, large = (alone(tmp_path, cell(model)) for model in ("squeezenet", "alexnet"))
    row = across(small, large)
    assert (row["differences"], row["not_recorded"]) == ([], [])
    assert (row["paired"], row["pairs"]) == (False, None)
    assert row["step_ratio"] == pytest.approx(ALEXNET_BYTES / SQUEEZENET_BYTES)
    assert (row["small_run_id"], row["large_run_id"]) == (small[0].run_id, large[0].run_id)


@pytest.mark.parametrize(
    ("environment", "difference"),
    [
        ({"cpu": "Another"}, "cpu One and Another"),
        ({"cores": 1}, "cores 2 and 1"),
        ({"cpu_quota": 0.6}, "cpu_quota none and 0.6"),
        ({"platform": "Linux-7"}, "platform Linux-6 and Linux-7"),
        ({"python": "3.14.0"}, "python 3.11.0 and 3.14.0"),
        ({"versions": {"torch": "3", "ray": "2", "numpy": "2"}}, "torch 2 and 3"),
        ({"gpu": "a new key"}, None),
    ],
)
def test_step_times_of_runs_on_unlike_machines_are_not_compared_but_bytes_are(
    tmp_path: Path, environment: dict[str, Any], difference: str | None
) -> None:
    machine = {"cpu": "One", "cores": 2, "cpu_quota": None, "platform": "Linux-6", "python": "3.11.0"}
    machine |= {"versions": {"torch": "2", "ray": "2", "numpy": "2"}}
    small = alone(tmp_path, cell("squeezenet"), **machine)
    row = across(small, alone(tmp_path, cell("alexnet"), **machine | environment))
    if difference is None:  # one of the runs does not tell
        assert row["not_recorded"] == [f"gpu in {small[0].run_id}"]
        assert row["step_ratio"] is not None
    else:
        assert row["differences"] == [difference]
        assert row["step_ratio"] is None
    assert row["bytes_ratio"] == pytest.approx((ALEXNET_BYTES + 500) / (SQUEEZENET_BYTES + 500))


def test_memory_host_name_and_packages_that_only_read_results_do_not_count(tmp_path: Path) -> None:
    small, large = (
        alone(
            tmp_path,
            cell(model),
            host=model,
            memory_bytes=len(model),
            versions={"torch": "2", "pandas": model, "pyarrow": model},
        )
        for model in ("squeezenet", "alexnet")
    )
    assert across(small, large)["differences"] == []


def test_what_older_runs_do_not_tell_is_no_difference_but_said(tmp_path: Path) -> None:
    runs = []
    for model in ("squeezenet", "alexnet"):
        path = write_run(tmp_path, [of := cell(model)], steps(of, [1.0] * 4))
        meta = json.loads((path / "run.json").read_text())
        del meta["environment"]["cpu_quota"]
        meta["environment"]["cpu"] = None
        (path / "run.json").write_text(json.dumps(meta))
        runs.append(read_cells(open_run(path)))
    row = across(*runs)
    assert row["step_ratio"] == 1.0
    assert row["differences"] == []
    assert row["not_recorded"] == [
        f"{name} in {run[0].run_id}" for run in runs for name in ("cpu", "cpu_quota")
    ]


def test_other_hosts_make_times_incomparable_and_bytes_only_where_other_ranks_share_one(
    tmp_path: Path,
) -> None:
    small = alone(tmp_path, cell("squeezenet", hosts=["a", "b"]))
    elsewhere = across(small, alone(tmp_path, cell("alexnet", hosts=["c", "d"])))
    together = across(small, alone(tmp_path, cell("alexnet", hosts=["a", "a"])))
    assert elsewhere["differences"] == ["hosts [a, b] and [c, d]"]
    assert together["differences"] == ["hosts [a, b] and [a, a]"]
    assert elsewhere["step_ratio"] is together["step_ratio"] is None
    assert elsewhere["bytes_ratio"] == pytest.approx(48.9, rel=1e-2)
    assert together["bytes_ratio"] is None


def test_emulated_links_of_other_rates_make_times_incomparable(tmp_path: Path) -> None:
    def emulated(model: str, rates: dict[str, int]) -> list[CellTable]:
        return alone(tmp_path, cell(model, emulated=True, emulated_rate_bits_per_s=rates))

    small = emulated("squeezenet", {"a": 10**9, "b": 10**9})
    # No rank is on host c.
    assert across(small, emulated("alexnet", {"a": 10**9, "b": 10**9, "c": 5}))["differences"] == []
    assert across(small, emulated("alexnet", {"a": 10**9, "b": 10**8}))["differences"] == [
        "emulated_rate_bits_per_s [a: 1,000,000,000, b: 1,000,000,000] and [a: 1,000,000,000, b: 100,000,000]"
    ]


def test_links_are_alike_up_to_five_percent_of_their_measured_goodput(tmp_path: Path) -> None:
    small, near, far = (
        alone(tmp_path, cell(model), [link(0, 1, goodput), link(1, 0, 200e6)])
        for model, goodput in (("squeezenet", 100e6), ("alexnet", 96e6), ("alexnet", 94e6))
    )
    unmeasured = alone(tmp_path, cell("alexnet"))
    assert across(small, near)["differences"] == []
    assert across(small, far)["differences"] == ["goodput_bytes_per_s 100,000,000 and 94,000,000"]
    assert across(small, unmeasured)["not_recorded"] == [f"goodput_bytes_per_s in {unmeasured[0].run_id}"]


def test_blocks_count_within_a_run_and_not_across_runs_of_one_cell(tmp_path: Path) -> None:
    small, large = cell("squeezenet", block_steps=1), cell("alexnet", block_steps=2)
    (row,) = compared(tmp_path, [small, large], [])
    assert row["differences"] == ["block_steps 1 and 2"]
    assert across(alone(tmp_path, small), alone(tmp_path, large))["differences"] == []


def test_strategies_are_compared_where_all_but_the_strategy_s_own_options_is_alike(tmp_path: Path) -> None:
    base, other = cell(bucket_mb=None), cell(cell="ps", bucket_mb=None, **SERVER)
    records = [*steps(base, [1.0] * 3), *steps(other, [2.0] * 3)]
    (row,) = compare_strategies(read_cells(open_run(write_run(tmp_path, [base, other], records))))
    assert (row["strategy"], row["over"], row["paired"], row["pairs"]) == ("ps", "ddp", True, 3)
    assert row["step_ratio"] == pytest.approx(2.0)
    assert (row["differences"], row["not_recorded"]) == ([], [])


def test_strategies_with_another_seed_are_not_compared_in_time(tmp_path: Path) -> None:
    base, other = cell(seed=0), cell(cell="ps", seed=1, **SERVER)
    records = [*steps(base, [1.0] * 3), *steps(other, [2.0] * 3)]
    (row,) = compare_strategies(read_cells(open_run(write_run(tmp_path, [base, other], records))))
    assert row["differences"] == ["seed 0 and 1"]
    assert (row["step_ratio"], row["paired"]) == (None, False)
    assert row["bytes_ratio"] == pytest.approx(2.0, rel=1e-3)  # the servers send as much as the workers


def options_compared(root: Path, cells: list[dict[str, Any]], walls_s: list[float]) -> list[dict[str, Any]]:
    records = [each for of, wall_s in zip(cells, walls_s, strict=True) for each in steps(of, [wall_s] * 6)]
    return compare_options(read_cells(open_run(write_run(root, cells, records))))


def test_cells_that_differ_in_one_option_are_compared_by_its_name(tmp_path: Path) -> None:
    cells = [
        cell(cell=f"{bucket}-{precision}", bucket_mb=bucket, precision=precision)
        for bucket in (25.0, 1.0)
        for precision in ("fp32", "bf16")
    ]
    rows = options_compared(tmp_path, cells, [1.0, 0.5, 2.0, 3.0])
    assert [(row["option"], row["small"], row["large"], row["step_ratio"]) for row in rows] == [
        ("precision", "fp32", "bf16", pytest.approx(0.5)),
        ("bucket_mb", 1.0, 25.0, pytest.approx(0.5)),  # numbers by size, whichever came first
        ("bucket_mb", 1.0, 25.0, pytest.approx(1 / 6)),
        ("precision", "fp32", "bf16", pytest.approx(1.5)),
    ]
    first = rows[0]
    assert (first["small_cell"], first["large_cell"]) == ("25.0-fp32", "25.0-bf16")
    assert (first["model"], first["strategy"], first["world_size"]) == ("squeezenet", "ddp", 2)
    assert (first["bytes_ratio"], first["bytes_source"], first["paired"], first["pairs"]) == (
        1.0,
        "tcp",
        True,
        6,
    )
    assert first["step_ratio_ci95"] == [pytest.approx(0.5)] * 2


def test_each_value_of_an_option_is_compared_with_the_first(tmp_path: Path) -> None:
    cells = [cell(cell=f"{batch}", batch_size=batch) for batch in (4, 8, 16)]
    rows = options_compared(tmp_path, cells, [1.0, 2.0, 3.0])
    assert [(row["small"], row["large"]) for row in rows] == [(4, 8), (4, 16)]


def test_what_threads_came_to_is_an_option_and_what_is_measured_is_none(tmp_path: Path) -> None:
    cells = [cell(cell=f"{threads}", threads=threads, threads_per_worker=threads) for threads in (1, 2)]
    (row,) = options_compared(tmp_path, cells, [2.0, 1.0])
    assert (row["option"], row["small"], row["large"]) == ("threads", 1, 2)
    elsewhere = [cell(cell=interface, interface=interface) for interface in ("a", "b")]
    assert options_compared(tmp_path, elsewhere, [1.0, 1.0]) == []


def test_shapes_of_one_model_in_a_run_are_values_of_an_option(tmp_path: Path) -> None:
    small = cell(cell="narrow", squeeze_ratio=0.125)
    large = cell(cell="wide", squeeze_ratio=0.5) | {"payload_bytes": 2 * SQUEEZENET_BYTES}
    run = open_run(write_run(tmp_path, [small, large], [*steps(small, [1.0] * 3), *steps(large, [2.0] * 3)]))
    assert compare_models(read_cells(run)) == []
    (row,) = compare_options(read_cells(run))
    assert row["option"] == "squeeze_ratio"
    assert row["bytes_ratio"] == pytest.approx(2, rel=1e-3)


def test_models_with_two_values_of_an_option_are_compared_at_each(tmp_path: Path) -> None:
    cells = [
        cell(model, cell=f"{model}-{precision}", precision=precision)
        for model in ("squeezenet", "alexnet")
        for precision in ("fp32", "bf16")
    ]
    rows = compared(tmp_path, cells, [record for of in cells for record in steps(of, [1.0] * 3)])
    assert [(row["small_cell"], row["large_cell"], row["differences"]) for row in rows] == [
        ("squeezenet-fp32", "alexnet-fp32", []),
        ("squeezenet-bf16", "alexnet-bf16", []),
    ]


def test_an_option_of_all_reduce_alone_does_not_keep_strategies_apart(tmp_path: Path) -> None:
    ddp = cell(bucket_mb=25.0)
    ps = cell(cell="squeezenet-ps-w2", bucket_mb=None, **SERVER)
    records = [*steps(ddp, [1.0] * 3), *steps(ps, [2.0] * 3)]
    (row,) = compare_strategies(read_cells(open_run(write_run(tmp_path, [ddp, ps], records))))
    assert row["differences"] == []
    assert row["step_ratio"] == pytest.approx(2.0)
