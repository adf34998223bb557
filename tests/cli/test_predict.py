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

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from handmade_runs import SQUEEZENET_BYTES, cell, steps, write_run

GIGABIT = 119.55e6
"""Bytes of TCP payload a second at 1 Gbit/s."""


def write(root: Path, baseline: bool = True) -> Path:
    """SqueezeNet on two emulated hosts that share cores, its step 80 ms, and 20 ms on one worker alone."""
    of = cell(
        spans_hosts=True,
        emulated=True,
        machine_cores=2,
        emulated_rate_bits_per_s={"a": 10**9, "b": 10**9},
    )
    alone = of | {"cell": "squeezenet-alone-w1", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
    records = [*steps(of, [0.08] * 4), *steps(alone, [0.02] * 4)]
    cells = [of, alone] if baseline else [of]
    return write_run(root, cells, [record for record in records if baseline or record.strategy != "alone"])


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
    predict.main(predict.Options(run=(str(write(tmp_path)),)))
    text = " ".join(capsys.readouterr().out.split())
    assert "These are bounds, not a fit" in text
    assert "squeezenet on 2 hosts trains as many times the images a second of one" in text
    assert "These bounds do not tell which of ddp, ps is fastest for squeezenet." in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--models", "alexnet"], "alexnet"),
        (["--rates", "fast"], "fast"),
        (["--workers", "1"], "--workers 1: must be at least 2"),
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
