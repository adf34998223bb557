"""The report command: what it says of a run, however the run ended."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from handmade_runs import cell, evaluation, link, steps, transfer, write_run

from distsqz.cli import report
from distsqz.errors import RequestError
from distsqz.metering.schema import TABLES
from distsqz.report.section import Format
from distsqz.runs.writer import COMPLETE, FAILED, INTERRUPTED, RUNNING, RunWriter

REPORT = Path(__file__).parents[2] / "analysis" / "report.py"
PAIR = [cell("squeezenet"), cell("alexnet")]
FORBIDDEN = ("torch", "ray", "matplotlib", "scipy.stats", "jinja2")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no sentence is wrapped and no table split."""
    monkeypatch.setenv("COLUMNS", "10000")


def write_pair(root: Path, **entries: Any) -> Path:
    """Both models, SqueezeNet's step a third of AlexNet's."""
    cells = [cell(model, **entries) for model in ("squeezenet", "alexnet")]
    walls = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]
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
        "With 2 workers under ddp, squeezenet sends 48.9x fewer bytes than alexnet (4,994,196 against "
        "244,403,860 of TCP payload a rank and step); squeezenet's step takes 3.00x less time "
        "([3.00x, 3.00x], 95% interval within this session, paired blocks)."
    ) in printed(capsys, write_pair(tmp_path))


def test_step_times_whose_ratio_may_be_one_are_not_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [*steps(PAIR[0], 2 * [1.0, 1.2, 0.9]), *steps(PAIR[1], 2 * [1.1, 1.0, 0.9])]
    assert "cannot be told apart" in printed(capsys, write_run(tmp_path, PAIR, records))


def test_json_is_one_object_with_runs_cells_and_comparisons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_pair(tmp_path)
    document = json.loads(printed(capsys, path, fmt="json"))
    assert {"cells", "comparisons", "runs", "strategy_comparisons"} <= document.keys()
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
        assert "Trained with 2 workers" in output.err
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
        "goodput_bits_per_s": 99_873_920.0,
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


def test_runs_of_one_cell_each_are_compared_across_and_called_unpaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_run(tmp_path, [of], steps(of, [1.0] * 6)) for of in PAIR]
    text = printed(capsys, *paths, fmt="markdown")
    assert "separate runs, unpaired" in text
    assert "### Larger model over smaller (step times: unpaired, ratios of medians)\n" in text
    assert "paired, geometric means" not in text


def test_step_times_in_turns_are_called_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, write_pair(tmp_path), fmt="markdown")
    assert "### Larger model over smaller (step times: paired, geometric means over blocks)\n" in text
    assert " yes |" in text.split("### Larger model")[1]


def test_what_keeps_runs_from_being_compared_is_named_and_no_ratio_of_times_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell("squeezenet", lr=0.1), cell("alexnet", lr=0.2)]
    paths = [write_run(tmp_path, [of], steps(of, [1.0] * 4)) for of in cells]
    text = printed(capsys, *paths, fmt="markdown")
    assert "48.9x fewer bytes than alexnet" in text
    assert "; step times are not compared, as these differ: lr 0.1 and 0.2." in text
    assert "(no step times compared)" in text
    assert "less time" not in text
    (row,) = json.loads(printed(capsys, *paths, fmt="json"))["comparisons"]
    assert (row["step_ratio"], row["differences"]) == (None, ["lr 0.1 and 0.2"])


def test_bytes_are_not_compared_where_what_differs_changes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell("squeezenet", num_classes=10), cell("alexnet", num_classes=1000)]
    paths = [write_run(tmp_path, [of], steps(of, [1.0] * 4)) for of in cells]
    assert (
        "With 2 workers under ddp, for squeezenet and alexnet, bytes and step times are not compared, "
        "as these differ: num_classes 10 and 1,000."
    ) in printed(capsys, *paths)


def test_what_keeps_strategies_from_being_compared_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell(seed=0), cell(cell="squeezenet-ps-w2", strategy="ps", servers=2, seed=1)]
    path = write_run(tmp_path, cells, [record for of in cells for record in steps(of, [1.0] * 4)])
    assert (
        "With 2 workers, for squeezenet under ddp and ps, the processes of ddp together send 2.00x fewer "
        "bytes of TCP payload than ps's; step times are not compared, as these differ: seed 0 and 1."
    ) in printed(capsys, path)


def test_what_an_older_run_does_not_tell_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_run(tmp_path, [of], steps(of, [1.0] * 6)) for of in PAIR]
    meta = json.loads((paths[0] / "run.json").read_text())
    del meta["environment"]["cpu_quota"]
    (paths[0] / "run.json").write_text(json.dumps(meta))
    assert (
        f"separate runs, unpaired); not recorded, and possibly different: cpu_quota in {paths[0].name}."
    ) in printed(capsys, *paths)


def test_the_newest_run_is_reported_by_default_and_a_run_may_be_named_by_its_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = write_pair(tmp_path)
    newer = tmp_path / "00000000-renamed"
    write_pair(tmp_path).rename(newer)
    options = {"fmt": "json", "runs": tmp_path}
    assert json.loads(printed(capsys, **options))["runs"][0]["path"] == str(newer)
    assert json.loads(printed(capsys, Path(older.name), **options))["runs"][0]["path"] == str(older)


def test_a_run_that_was_renamed_is_found_by_its_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_pair(tmp_path)
    run.rename(tmp_path / "baseline-old")
    document = json.loads(printed(capsys, Path(run.name), fmt="json", runs=tmp_path))
    assert document["runs"][0]["path"] == str(tmp_path / "baseline-old")


@pytest.mark.parametrize("fmt", get_args(Format))
def test_a_run_beside_its_copy_and_a_link_to_it_is_reported_once_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fmt: Format
) -> None:
    run = write_pair(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "link").symlink_to(run)
    alone = printed(capsys, run, fmt=fmt)
    report.main(report.Options(run=(str(run), str(tmp_path / "link"), str(copy)), format=fmt))
    output = capsys.readouterr()
    assert output.out == alone
    assert output.err.splitlines()[0] == f"left out {copy}: the same run as {run}"


def test_a_table_that_is_missing_is_named_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_pair(tmp_path)
    shutil.rmtree(run / "steps.parquet")
    for fmt in get_args(Format):
        report.main(report.Options(run=(str(run),), format=fmt))
        said = "".join(capsys.readouterr())
        assert "the run has no steps.parquet" in said
        assert "squeezenet-ddp-w2 has 0 of 4 measured steps" in said


def test_an_older_table_in_a_run_that_completed_is_counted_against_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = cell(steps=6)
    run = write_run(tmp_path, [of], steps(of, [1.0] * 6))
    older = write_run(tmp_path / "older", [of], steps(of, [1.0] * 3))
    table = pq.read_table(older / "steps.parquet").replace_schema_metadata({})  # as of older versions
    shutil.rmtree(run / "steps.parquet")
    pq.write_table(table, run / "steps.parquet")  # likewise a single file
    text = printed(capsys, run)
    assert "Warning: the run completed, but squeezenet-ddp-w2 has 3 of 6 measured steps." in text
    assert "Warning: steps.parquet has 8 of the 14 rows that the run wrote." in text


def test_a_whole_run_is_reported_without_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_pair(tmp_path)
    assert "Warning" not in printed(capsys, run)
    assert json.loads(printed(capsys, run, fmt="json"))["runs"][0]["warnings"] == []


def damaged_table(run: Path) -> str:
    (part,) = (run / "peers.parquet").iterdir()
    part.write_bytes(b"")
    return f"error: {part}: cannot be read"


def damaged_run_json(run: Path) -> str:
    (run / "run.json").write_text((run / "run.json").read_text()[:-20])
    return f"error: {run}: not a run directory"


@pytest.mark.parametrize("damage", [damaged_table, damaged_run_json])
def test_a_damaged_run_exits_with_2_and_one_line(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    run = write_pair(tmp_path)
    told = damage(run)
    ended = command(run)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(told)


def test_a_figure_of_a_deployment_is_refused_before_anything_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = {"cell": "m", "kind": "shipment", "model": "m", "file_bytes": 8, "clients": 1}
    writer = RunWriter.create(tmp_path, "deploy", [], {}, [shipped], tables=TABLES)
    writer.finish(COMPLETE)
    figure = tmp_path / "f.svg"
    with pytest.raises(RequestError, match=f"^--figure {figure}: draws runs that trained; leave it out"):
        report.main(report.Options(run=(str(writer.path),), figure=figure))
    assert capsys.readouterr().out == ""
    assert not figure.exists()


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
        (["x" * 5000], "neither a run directory nor the id of a run"),
        (["/"], "/: not a run directory (No such file or directory)"),
        (["--runs", "/dev/null"], "/dev/null: cannot be read (Not a directory)"),
        (["--figure", "figure.bmp"], "--figure figure.bmp: must end in .svg or .png"),
        (["--figure", "/nonexistent/figure.svg"], "--figure /nonexistent/figure.svg: cannot be written"),
        (["--format", "yaml"], "--format"),
    ],
)
def test_a_wrong_request_exits_with_2_and_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_pair(tmp_path)
    ended = command("--runs", tmp_path, *arguments)
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


def test_a_run_is_found_by_the_end_of_its_id_unless_several_end_so(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    ending = path.name.rpartition("-")[2]
    (found,) = report.find_runs([ending], tmp_path)
    assert found.path.name == path.name
    shutil.copytree(path, tmp_path / "copy")
    meta = json.loads((tmp_path / "copy" / "run.json").read_text())
    meta["run_id"] = f"20200101-000000-test-{ending}"
    (tmp_path / "copy" / "run.json").write_text(json.dumps(meta))
    with pytest.raises(RequestError, match=f"RUN {ending}: ends the ids of 2 runs; give one of"):
        report.find_runs([ending], tmp_path)
