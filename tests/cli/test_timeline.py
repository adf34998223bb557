"""`distsqz timeline`: what every rank did in a step, within the terminal, and adding up to the tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from distsqz import open_run
from distsqz.cli import timeline
from distsqz.errors import InvalidValue, RequestError
from distsqz.report.timelines import MOST_RANKS

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from handmade_runs import cell, steps, transfer, write_run


def write(root: Path, ranks: int = 2, **entries: Any) -> Path:
    """SqueezeNet and AlexNet, whose step takes three times as long; a transfer in each step of each rank."""
    hosts = [f"h{rank}" for rank in range(ranks)]
    shared: dict[str, Any] = {"world_size": ranks, "hosts": hosts, "emulated": True, **entries}
    cells = [cell(model, **shared) for model in ("squeezenet", "alexnet")]
    records: list[Any] = []
    for of, wall_s in zip(cells, (1.0, 3.0), strict=True):
        records += steps(of, [wall_s] * 4)
        records += [transfer(of, rank, 2, 0.2, 0.6) for rank in range(ranks)]
    return write_run(root, cells, records)


def shown(capsys: pytest.CaptureFixture[str], path: Path, **options: Any) -> str:
    timeline.main(timeline.Options(run=str(path), **options))
    return capsys.readouterr().out


def test_phases_add_up_to_the_rows_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    phases = json.loads(shown(capsys, path, step=2, format="json"))["sums"]
    recorded = open_run(path).table("steps").to_pandas().set_index(["cell", "rank", "step"])
    assert len(phases) == 4
    for row in phases:
        of_step = recorded.loc[(row["cell"], row["rank"], 2)]
        for name in ("data_s", "forward_s", "backward_s", "optimizer_s", "other_s", "wall_s"):
            assert row[name] == pytest.approx(of_step[name])
        waited = (row["wait_s"] or 0) + row["exposed_comm_s"]
        assert waited == pytest.approx(of_step["exposed_comm_s"])


@pytest.mark.parametrize(("width", "ranks"), [(60, 2), (100, 16)])
def test_no_line_is_wider_than_the_terminal_and_every_rank_has_one(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    ranks: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = shown(capsys, write(tmp_path, ranks))
    drawing = text.split("d data, f forward")[0]
    assert max(map(len, text.splitlines())) <= width
    assert all(drawing.count(f"rank {rank} h{rank} ") == 2 for rank in range(ranks))


def test_cells_share_one_axis_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, write(tmp_path), step=2).splitlines()
    small, large = (line for line in lines if line.startswith("rank 0 "))
    drawn = [len(line.split(maxsplit=3)[3].replace(" ", "")) for line in (small, large)]
    assert drawn[1] == pytest.approx(3 * drawn[0], abs=3)
    assert "steps" not in lines[0] and lines[0] == "squeezenet-ddp-w2, step 2: 1.00 s"


def test_json_has_every_phase_and_transfer_of_every_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(shown(capsys, write(tmp_path, ranks=MOST_RANKS + 2), step=2, format="json"))
    assert [cell["steps"] for cell in document["cells"]] == [[2], [2]]
    phases = [row for row in document["phases"] if row["cell"] == "alexnet-ddp-w18"]
    assert {row["rank"] for row in phases} == {*range(MOST_RANKS + 2)}
    sums = {(row["cell"], row["rank"]): row for row in document["sums"]}
    of_rank = [row for row in phases if row["rank"] == 17]
    for what in ("forward", "backward"):
        (row,) = (row for row in of_rank if row["what"] == what)
        assert row["end_s"] - row["start_s"] == pytest.approx(sums["alexnet-ddp-w18", 17][f"{what}_s"])
    (transfer,) = (row for row in of_rank if row["what"] == "transfer")
    assert transfer["end_s"] - transfer["start_s"] == pytest.approx(0.4)


def test_what_is_not_drawn_is_said_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, write(tmp_path, ranks=MOST_RANKS + 2))
    assert "2 of 18 ranks left out" in text and f"the first {MOST_RANKS} ranks are shown" in text
    assert "rank 15 h15" in text and "rank 16 h16" not in text
    assert "Hosts' clocks differ" not in text
    apart = shown(capsys, write(tmp_path / "apart", emulated=False))
    assert "Hosts' clocks differ, so each rank's time begins with its own first step." in apart


@pytest.mark.parametrize("width", [60, 80])
def test_long_names_of_hosts_do_not_widen_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    hosts = [f"ip-10-17-203-{rank}.eu-central-1.compute.internal" for rank in range(2)]
    assert max(map(len, shown(capsys, write(tmp_path, hosts=hosts)).splitlines())) <= width


def test_a_figure_is_an_svg_with_a_lane_for_each_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(capsys, write(tmp_path), svg=tmp_path / "steps.svg")
    assert (tmp_path / "steps.svg").read_text().startswith("<?xml")


def test_a_step_that_was_not_measured_is_refused_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="measured steps: 1 to 4"):
        timeline.main(timeline.Options(run=str(write(tmp_path)), step=40))


@pytest.mark.parametrize("options", [{"cells": ("vgg",)}, {"svg": Path("steps.png")}])
def test_bad_input_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"^--(cells vgg|svg steps.png): "):
        timeline.main(timeline.Options(run=str(write(tmp_path)), **options))
