"""`distsqz predict`: brackets for other networks, with what was measured beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from distsqz.cli import predict
from distsqz.cli.command import parse
from distsqz.errors import RequestError
from distsqz.report.formats import ratio

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from handmade_runs import SQUEEZENET_BYTES, cell, link, steps, write_run

GIGABIT = 119.55e6
"""Bytes of TCP payload a second at 1 Gbit/s."""


def write(root: Path, baseline: bool = True, of: dict[str, Any] | None = None, **entries: Any) -> Path:
    """SqueezeNet on two emulated hosts that share cores, its step 80 ms, and 20 ms on one worker alone.

    Args:
        root: the directory of the runs.
        baseline: whether the worker alone was measured.
        of: entries of the cell of two hosts alone.
        entries: entries of both cells.
    """
    shared = cell(
        spans_hosts=True,
        emulated=True,
        machine_cores=2,
        emulated_rate_bits_per_s={"a": 10**9, "b": 10**9},
        **entries,
    )
    alone = shared | {"cell": "squeezenet-alone-w1", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
    together = shared | (of or {})
    records = [*steps(together, [0.08] * 4), *steps(alone, [0.02] * 4)]
    cells = [together, alone] if baseline else [together]
    return write_run(root, cells, [record for record in records if baseline or record.strategy != "alone"])


def write_cluster(root: Path, goodput_bytes_per_s: float) -> Path:
    """SqueezeNet on two machines, its step 120 ms, and 20 ms on one worker alone."""
    of = cell(spans_hosts=True)
    alone = of | {"cell": "squeezenet-alone-w1", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
    links = [link(rank, 1 - rank, goodput_bytes_per_s) for rank in range(2)]
    return write_run(root, [of, alone], [*steps(of, [0.12] * 4), *steps(alone, [0.02] * 4), *links])


def said(capsys: pytest.CaptureFixture[str], path: Path, **options: Any) -> str:
    predict.main(predict.Options(run=(str(path),), **options))
    return " ".join(capsys.readouterr().out.split())


def predicted(capsys: pytest.CaptureFixture[str], path: Path, **options: Any) -> list[dict[str, Any]]:
    predict.main(predict.Options(run=(str(path),), format="json", **options))
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["predictions"]
    return rows


def test_a_step_lies_between_full_overlap_and_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = predicted(capsys, write(tmp_path), rates=("1gbit",), workers=(4,), strategies=("ddp",))
    communication_s = 1.5 * SQUEEZENET_BYTES / GIGABIT
    assert row["step_low_s"] == pytest.approx(communication_s, rel=1e-3)
    assert row["step_high_s"] == pytest.approx(0.02 + communication_s / 0.93, rel=1e-3)
    assert row["speedup_low_ratio"] == pytest.approx(4 * 0.02 / row["step_high_s"])
    assert row["samples_high_per_s"] == pytest.approx(4 * 16 / row["step_low_s"])
    assert row["measured_step_s"] is None


def test_what_was_measured_stands_beside_it_as_hosts_of_their_own_would_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predicted(capsys, write(tmp_path), rates=("100mbit", "1gbit"), strategies=("ddp",))
    assert [row["measured_step_s"] for row in rows] == [None, pytest.approx(0.08)]
    at_gigabit = rows[1]
    assert at_gigabit["step_low_s"] <= at_gigabit["own_hosts_step_s"] <= at_gigabit["step_high_s"]


def test_computing_takes_time_in_proportion_to_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = predicted(capsys, write(tmp_path), rates=("10gbit",), batch_size=64, strategies=("ddp",))
    assert (row["batch_size"], row["compute_s"]) == (64, pytest.approx(0.08))


def test_strategies_are_called_fastest_only_where_the_bounds_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predicted(
        capsys, write(tmp_path), rates=("100mbit",), workers=(8,), strategies=("ddp", "ps", "ps-dedicated")
    )
    assert [row["surely_fastest"] for row in rows] == [False] * 3  # ddp and ps send the same
    rows = predicted(
        capsys, write(tmp_path), rates=("100mbit",), workers=(8,), strategies=("ddp", "ps-dedicated")
    )
    assert [row["surely_fastest"] for row in rows] == [True, False]


def test_the_table_says_that_these_are_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, write(tmp_path))
    assert "These are bounds, not a fit" in text
    assert "no bound" not in text
    assert "These brackets do not tell which strategy is fastest for squeezenet." in text


def test_each_strategy_has_a_finding_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    options: dict[str, Any] = {"workers": (8,), "rates": ("1gbit",), "strategies": ("ddp", "ps-dedicated")}
    text = said(capsys, path, **options)
    for row in predicted(capsys, path, **options):
        gain = f"{ratio(row['speedup_low_ratio'])} to {ratio(row['speedup_high_ratio'])} at 1gbit"
        under = f"squeezenet on 8 hosts under {row['strategy']} trains as many times the images a second of"
        (finding,) = (each for each in text.split(". ") if under in each)
        assert f"{under} one: {gain}" in finding
        assert ("surely the fastest strategy" in finding) == (row["strategy"] == "ddp")


def test_without_rates_the_links_of_the_runs_are_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (emulated,) = predicted(capsys, write(tmp_path), strategies=("ddp",))
    assert (emulated["rate_bits_per_s"], emulated["measured_step_s"]) == (10**9, pytest.approx(0.08))
    path = write_cluster(tmp_path / "cluster", goodput_bytes_per_s=50e6)
    (row,) = predicted(capsys, path, strategies=("ddp",))
    assert (row["rate_bits_per_s"], row["goodput_bytes_per_s"]) == (None, 50e6)
    assert row["step_low_s"] == pytest.approx(SQUEEZENET_BYTES / 50e6)
    assert (row["measured_step_s"], row["measured_in"]) == (pytest.approx(0.12), "squeezenet-ddp-w2")
    assert row["measured_run_id"] == path.name
    assert "at 400 Mbit/s of goodput" in said(capsys, path)


def test_cells_of_a_cluster_stand_beside_the_rate_whose_goodput_they_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cluster(tmp_path, goodput_bytes_per_s=0.98 * GIGABIT)
    rows = predicted(capsys, path, rates=("500mbit", "1gbit"), strategies=("ddp",))
    assert [row["measured_step_s"] for row in rows] == [None, pytest.approx(0.12)]


def test_examples_of_rates_are_said_to_be_some_where_no_link_was_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = cell(world_size=2, hosts=["a", "a"])
    alone = of | {"cell": "squeezenet-alone-w1", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
    path = write_run(tmp_path, [of, alone], [*steps(of, [0.08] * 4), *steps(alone, [0.02] * 4)])
    text = said(capsys, path)
    assert "at 100mbit" in text and "the rates are examples" in text
    assert "the rates are examples" not in said(capsys, path, rates=("1gbit",))


@pytest.mark.parametrize(
    "other", [{"image_size": 224}, {"precision": "bf16"}, {"payload_bytes": 4_000_000}, {"device": "cuda:0"}]
)
def test_what_was_measured_with_other_settings_does_not_stand_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    alike = {"image_size": 64, "precision": "fp32", "device": "cpu"}
    first = write(tmp_path / "first", **alike)
    (row,) = predicted(capsys, first, strategies=("ddp",))
    assert row["measured_run_id"] == first.name
    unlike = write(tmp_path / "other", of=other, **alike)
    (row,) = predicted(capsys, unlike, strategies=("ddp",))
    assert row["measured_step_s"] is None and row["measured_run_id"] is None


def test_a_cell_that_measured_no_step_hides_none_that_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulated = {"emulated": True, "machine_cores": 2, "emulated_rate_bits_per_s": {"a": 10**9, "b": 10**9}}
    empty, full = (cell(spans_hosts=True, **emulated) | {"cell": name} for name in ("empty", "full"))
    alone = empty | {"cell": "alone", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
    path = write_run(tmp_path, [empty, full, alone], [*steps(full, [0.08] * 4), *steps(alone, [0.02] * 4)])
    (row,) = predicted(capsys, path, strategies=("ddp",))
    assert (row["measured_in"], row["measured_step_s"]) == ("full", pytest.approx(0.08))


def test_below_100_mbit_the_upper_end_is_said_to_be_no_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, strategies = write(tmp_path), ("ddp", "ps-dedicated")
    rows = predicted(capsys, path, rates=("20mbit", "100mbit"), workers=(8,), strategies=strategies)
    bounds = [(row["low_is_bound"], row["high_is_bound"]) for row in rows]
    assert bounds == [(True, False)] * 2 + [(True, True)] * 2
    assert [row["surely_fastest"] for row in rows] == [False, False, True, False]
    assert "Below 100 Mbit/s the upper end is no bound" in said(capsys, path, rates=("20mbit",))


def test_a_batch_size_that_was_not_measured_gives_no_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    text = said(capsys, path, batch_size=64)
    assert "Neither end is a bound at a batch size that was not measured" in text
    assert "in proportion from 16" in text and "These are bounds" not in text
    rows = predicted(capsys, path, batch_size=64)
    assert not any(row["low_is_bound"] or row["high_is_bound"] for row in rows)
    assert "Neither end" not in said(capsys, path, batch_size=16)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--models", "alexnet"], "alexnet"),
        (["--rates", "fast"], "fast"),
        (["--workers", "1"], "--workers 1: must be at least 2"),
        (["--workers"], "--workers: give at least one, such as --workers 2 4 8"),
        (["--rates"], "--rates: give at least one, such as --rates 100mbit 1gbit"),
        (["--strategies"], "--strategies: give at least one"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, options: list[str], line: str) -> None:
    path = write(tmp_path)
    with pytest.raises(RequestError, match=line):
        predict.main(parse(predict.Options, "", [str(path), *options]))


def test_a_run_whose_cores_were_shared_tells_nothing_without_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no run tells what a model computes"):
        predict.main(predict.Options(run=(str(write(tmp_path, baseline=False)),)))
