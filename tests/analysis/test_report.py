"""The report command: what it says of a run, however the run ended."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from handmade_runs import cell, evaluation, link, steps, transfer, write_run

from analysis import report
from distsqz.runs import FAILED, INTERRUPTED, RUNNING

REPORT = Path(report.__file__)
PAIR = [cell("squeezenet"), cell("alexnet")]
FORBIDDEN = ("torch", "ray", "matplotlib", "scipy.stats")


def write_pair(root: Path, **entries: Any) -> Path:
    """Both models, SqueezeNet's step a third of AlexNet's."""
    cells = [cell(model, **entries) for model in ("squeezenet", "alexnet")]
    walls = [1.0, 1.1, 0.9, 1.0]
    records = [*steps(cells[0], walls), *steps(cells[1], [3 * wall for wall in walls])]
    records += [transfer(of, rank, 1, 0.0, 0.5) for of in cells for rank in (0, 1)]
    return write_run(root, cells, records)


def printed(capsys: pytest.CaptureFixture[str], *runs: Path, fmt: Any = "table", **options: Any) -> str:
    report.main(report.Options(run=tuple(map(str, runs)), format=fmt, **options))
    return capsys.readouterr().out


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPORT, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_finding_is_one_plain_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        "With 2 workers under ddp, a rank sends 4,994,196 bytes of TCP payload a step for squeezenet and "
        "244,403,860 for alexnet: 48.9x fewer; squeezenet's step takes 0.333x the time of alexnet's "
        "([0.333x, 0.333x], 95% bootstrap interval, paired blocks)."
    ) in printed(capsys, write_pair(tmp_path))


def test_step_times_whose_ratio_may_be_one_are_not_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [*steps(PAIR[0], [1.0, 1.2, 0.9, 1.0]), *steps(PAIR[1], [1.1, 1.0, 1.0, 0.9])]
    assert "cannot be told apart" in printed(capsys, write_run(tmp_path, PAIR, records))


def test_json_is_one_object_with_runs_cells_and_comparisons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_pair(tmp_path)
    document = json.loads(printed(capsys, path, fmt="json"))
    assert sorted(document) == ["cells", "comparisons", "runs", "strategy_comparisons"]
    (run,) = document["runs"]
    assert (run["run_id"], run["path"], run["status"]) == (path.name, str(path), "complete")
    assert run["environment"]["versions"]["torch"]
    assert [entry["cell"] for entry in document["cells"]] == ["squeezenet-ddp-w2", "alexnet-ddp-w2"]
    assert document["comparisons"][0]["step_ratio"] == pytest.approx(3.0)


def test_csv_is_the_cells_under_one_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write_pair(tmp_path), write_pair(tmp_path)
    rows = list(csv.DictReader(io.StringIO(printed(capsys, first, second, fmt="csv"))))
    assert [row["model"] for row in rows] == ["squeezenet", "alexnet"] * 2
    assert {row["run_id"] for row in rows} == {first.name, second.name}


def test_csv_leaves_the_remarks_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, over_loopback in ((write_pair(tmp_path), False), (write_pair(tmp_path, interface="lo"), True)):
        report.main(report.Options(run=(str(path),), format="csv"))
        output = capsys.readouterr()
        assert len(output.out.splitlines()) == 3
        assert output.err.startswith("Trained with 2 workers")
        assert ("The network was loopback" in output.err) == over_loopback


@pytest.mark.parametrize("fmt", ["table", "markdown", "latex"])
def test_every_text_format_has_the_three_tables_and_the_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    text = printed(capsys, write_pair(tmp_path), fmt=fmt)
    for part in ("Cells of", "Four views", "Larger model over smaller", "With 2 workers under ddp"):
        assert part in text


def test_accuracy_is_shown_where_the_run_has_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, PAIR[:1], [*steps(PAIR[0], [1.0]), evaluation(PAIR[0], 4, 0.8125)])
    assert "0.8125" in printed(capsys, path)
    assert "accuracy" not in printed(capsys, write_pair(tmp_path))


def test_bytes_on_the_wire_are_a_fifth_view_where_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = steps(PAIR[0], [1.0], tcp_tx_bytes=1_000_000, wire_tx_bytes=1_047_000)
    text = printed(capsys, write_run(tmp_path, PAIR, records), fmt="markdown")
    for part in ("Five views", "wire tx bytes", "1,047,000", "wire vs tcp", "1.047x"):
        assert part in text
    text = printed(capsys, write_pair(tmp_path), fmt="markdown")
    assert "Four views" in text
    assert "wire" not in text


def test_what_the_links_carried_stands_beside_what_training_made_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 4,993,696 bytes in half a second are 9,987,392 a second: four fifths of 12,484,240.
    records = [*steps(PAIR[0], [1.0]), *(transfer(PAIR[0], rank, 1, 0.0, 0.5) for rank in (0, 1))]
    records += [link(0, 1, 12_484_240.0, rtt_us=71), link(1, 0, 13e6)]
    path = write_run(tmp_path, PAIR, records)
    text = printed(capsys, path, fmt="markdown")
    for part in (
        "of goodput",
        "80.0%",
        "### Links, measured before training\n",
        "12.5",
        "99.9",
        "104.0",
        "71",
    ):
        assert part in text
    (run,) = json.loads(printed(capsys, path, fmt="json"))["runs"]
    assert run["links"][0] == {
        "rank": 0,
        "host": "h0",
        "peer_rank": 1,
        "peer_host": "h1",
        "goodput_bytes_per_s": 12_484_240.0,
        "rtt_us": 71,
    }
    text = printed(capsys, write_pair(tmp_path), fmt="markdown")
    assert "goodput" not in text
    assert "Links" not in text


def test_of_many_links_the_slowest_are_shown_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = [link(rank, (rank + 1) % 20, (100 - rank) * 1e6) for rank in range(20)]
    path = write_run(tmp_path, PAIR, links)
    text = printed(capsys, path, fmt="markdown")
    assert "the 16 slowest" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| h")]
    assert rows == ["host", *(f"h{rank}" for rank in range(19, 3, -1))]
    assert len(json.loads(printed(capsys, path, fmt="json"))["runs"][0]["links"]) == 20


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"interface": "lo"}, "The network was loopback"),
        ({"emulated": True}, "Hosts and links were emulated on one machine."),
        (
            {"emulated": True, "emulated_rate_bits_per_s": {"a": 10**9, "b": 10**9}},
            "emulated on one machine: each link shaped to 1gbit each way, no delay added.",
        ),
        (
            {"emulated": True, "emulated_rate_bits_per_s": {"a": 10**9, "b": 25 * 10**7}},
            "links shaped each way, to 1gbit for a; 250mbit for b; no delay added.",
        ),
        ({"threads_per_worker": 3}, "cores were oversubscribed in squeezenet-ddp-w2, alexnet-ddp-w2"),
    ],
)
def test_what_makes_step_times_doubtful_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: dict[str, Any], words: str
) -> None:
    assert words in printed(capsys, write_pair(tmp_path, **entries))
    assert words not in printed(capsys, write_pair(tmp_path))


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (
            FAILED,
            {"text": "rank 1, step 3: worker died"},
            "failed after 4 of 8 measured steps: rank 1, step 3",
        ),
        (INTERRUPTED, None, "interrupted after 4 of 8 measured steps"),
        (RUNNING, None, "has done 4 of 8 measured steps; it is still going, or was killed"),
    ],
)
def test_a_run_that_did_not_complete_says_how_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, error: Any, words: str
) -> None:
    path = write_run(tmp_path, PAIR, steps(PAIR[0], [1.0] * 4), status, error)
    assert words in printed(capsys, path)
    assert json.loads(printed(capsys, path, fmt="json"))["runs"][0]["status"] == status


@pytest.mark.parametrize("fmt", ["table", "markdown", "latex", "csv", "json"])
def test_a_run_killed_before_its_first_step_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    path = write_run(tmp_path, PAIR, status=RUNNING)
    assert "alexnet" in printed(capsys, path, fmt=fmt, figure=tmp_path / "empty.svg")
    assert (tmp_path / "empty.svg").stat().st_size > 0


def test_runs_of_one_cell_each_are_compared_across(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_run(tmp_path, [of], steps(of, [1.0] * 4)) for of in PAIR]
    assert "separate runs, unpaired" in printed(capsys, *paths)


def test_the_newest_run_is_reported_by_default_and_a_run_may_be_named_by_its_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = write_pair(tmp_path)
    newer = tmp_path / "99999999-000000-later"
    write_pair(tmp_path).rename(newer)
    options = {"fmt": "json", "runs": tmp_path}
    assert json.loads(printed(capsys, **options))["runs"][0]["path"] == str(newer)
    assert json.loads(printed(capsys, Path(older.name), **options))["runs"][0]["path"] == str(older)


def test_the_same_run_gives_the_same_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_pair(tmp_path)
    figures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for figure in figures:
        printed(capsys, path, figure=figure)
    first, second = (figure.read_bytes() for figure in figures)
    assert first == second
    assert first.startswith(b"<?xml")


def test_the_figure_may_be_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, write_pair(tmp_path), figure=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "RUN nowhere: neither a run directory nor the id of a run"),
        (["--figure", "figure.bmp"], "--figure figure.bmp: must end in .svg or .png"),
        (["--figure", "/nonexistent/figure.svg"], "--figure /nonexistent/figure.svg: cannot be written"),
        (["--format", "yaml"], "--format"),
    ],
)
def test_a_wrong_request_exits_with_2_and_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_pair(tmp_path)
    ended = command(*arguments, "--runs", tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert words in ended.stderr


def test_no_run_yet_exits_with_2(tmp_path: Path) -> None:
    ended = command("--runs", tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no run there yet" in ended.stderr


def test_the_report_loads_neither_torch_nor_ray_nor_matplotlib(tmp_path: Path) -> None:
    """Each of them would take longer to import than the report takes."""
    write_pair(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", REPORT, "--runs", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "pandas" in imported
    assert not imported.intersection(FORBIDDEN)
    assert "With 2 workers under ddp" in ended.stdout
