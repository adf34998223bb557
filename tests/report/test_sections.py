"""Sections: the same figures in every format; the terminal leaves out what tells a reader nothing."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from handmade_runs import ALEXNET_BYTES, cell, link, push, steps, transfer, update, write_run

from distsqz import open_run
from distsqz.metering.schema import Record
from distsqz.report.legend import TERMS, legend
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import read_sections, render_report
from distsqz.report.section import Format, Section

MODELS = {"squeezenet": 1.0, "alexnet": 3.0}


def compare_cells(workers: int = 4, **entries: Any) -> list[dict[str, Any]]:
    """Both models under all-reduce and a parameter server."""
    hosts = [f"h{rank + 1}" for rank in range(workers)]
    shared = {"world_size": workers, "hosts": hosts, "spans_hosts": True, "emulated": True, **entries}
    servers = {"servers": workers, "server_hosts": hosts, "placement": "colocated", "consistency": "sync"}
    return [
        cell(model, strategy=strategy, cell=f"{model}-{strategy}-w{workers}", steps=6, **shared, **options)
        for model in MODELS
        for strategy, options in (("ddp", {}), ("ps", servers))
    ]


def ring_bytes(of: dict[str, Any]) -> dict[str, int]:
    """What a rank of four sends and receives in a ring all-reduce: 2 (n - 1) / n of the payload."""
    crossing = of["payload_bytes"] * 3 // 2
    beyond = {"predicted": 0, "tcp": 500, "nic": 9000}
    return {f"{view}_{way}_bytes": crossing + more for view, more in beyond.items() for way in ("tx", "rx")}


def compare_records(cells: list[dict[str, Any]], stale: int = 0, uneven: int = 0) -> list[Record]:
    """Six steps of each cell; a push a shard and step, the first shard's larger by `uneven` bytes."""
    records: list[Record] = [link(rank, (rank + 1) % 4, 1.19e9 + rank) for rank in range(4)]
    for of in cells:
        slower = MODELS[of["model"]] * (1.1 if of["strategy"] == "ps" else 1.0)
        walls = [slower * wall for wall in (1.0, 1.1, 0.9, 1.0, 1.05, 0.95)]
        records += steps(of, walls, **(ring_bytes(of) if of["strategy"] == "ddp" else {}))
        for rank in range(of["world_size"]):
            records.append(transfer(of, rank, 1, 0.0, 0.5, bucket=of.get("servers", 0)))
        if of["strategy"] == "ps":
            for shard in range(of["servers"]):
                records.append(push(of, 0, 1, shard, 1_000_000 + uneven * (shard == 0)))
                records.append(update(of, 0, 1, shard, staleness=stale))
    return records


def compare_run(root: Path, stale: int = 0, uneven: int = 0, **entries: Any) -> MeasuredRun:
    cells = compare_cells(**entries)
    return MeasuredRun(open_run(write_run(root, cells, compare_records(cells, stale, uneven))))


def rendered(fmt: Format, *runs: MeasuredRun) -> str:
    return render_report(runs, read_sections(runs), fmt)


def section_of(key: str, *runs: MeasuredRun) -> Section:
    (section,) = (section for section in read_sections(runs) if section.key == key)
    return section


def at(document: Any, address: str) -> Any:
    """What stands at such a place as `runs.0.links.1`."""
    for step in address.split("."):
        document = document[int(step) if isinstance(document, list) else step]
    return document


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_keys_of_sections_differ(tmp_path: Path) -> None:
    keys = [section.key for section in read_sections([compare_run(tmp_path)])]
    assert len(keys) == len(set(keys))


def test_every_row_stands_in_json_where_its_section_says(tmp_path: Path) -> None:
    runs = [compare_run(tmp_path, stale=1), compare_run(tmp_path, uneven=10**6)]
    document = json.loads(rendered("json", *runs))
    checked = 0
    for section in read_sections(runs):
        for address, row in zip(section.addresses([run.run_id for run in runs]), section.rows, strict=True):
            entry = at(document, address)
            for column in section.columns:
                if column != "run_id":
                    assert entry.get(column) == pytest.approx(row.get(column)), (address, column)
                    checked += 1
    assert checked > 100


def test_the_ratios_of_a_sentence_are_those_of_the_table(tmp_path: Path) -> None:
    section = section_of("comparisons", compare_run(tmp_path))
    text = rendered("markdown", compare_run(tmp_path))
    for sentence in section.sentences:
        bytes_ratio, step_ratio = re.findall(r"([\d.]+x) (?:fewer|less)", sentence)
        assert f" {bytes_ratio} |" in text
        assert f" {step_ratio} |" in text


def test_the_model_that_is_slower_although_it_is_smaller_is_not_called_faster(tmp_path: Path) -> None:
    cells = [cell("squeezenet"), cell("alexnet")]
    records = [*steps(cells[0], 2 * [2.0, 2.1, 1.9]), *steps(cells[1], 2 * [1.0, 1.05, 0.95])]
    text = rendered("markdown", MeasuredRun(open_run(write_run(tmp_path, cells, records))))
    assert "alexnet's step takes 0.500x the time of squeezenet's ([0.500x, 0.500x]" in text
    assert "less time" not in text


def test_a_demo_fits_100_lines_with_findings_and_comparisons_in_the_first_25(tmp_path: Path) -> None:
    lines = rendered("table", compare_run(tmp_path)).splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 120
    first = "\n".join(lines[:25])
    assert first.startswith("With 4 workers under ddp, squeezenet sends 48.9x fewer bytes than alexnet")
    assert first.count("With 4 workers") == 4
    comparisons = first.split("Parameter server over all-reduce")
    assert len(comparisons) == 2
    assert all(part.count("[") >= 2 for part in comparisons)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    runs = [compare_run(tmp_path, stale=1, uneven=10**6, interface="lo") for _ in range(2)]
    assert max(map(len, rendered("table", *runs).splitlines())) <= width


def test_a_report_on_40_cells_keeps_within_the_terminal_and_has_them_all(tmp_path: Path) -> None:
    cells = [cell(cell=f"squeezenet-ddp-w2-lr{index}", lr=index) for index in range(40)]
    records = list(chain.from_iterable(steps(of, [1.0]) for of in cells))
    text = rendered("table", MeasuredRun(open_run(write_run(tmp_path, cells, records))))
    assert max(map(len, text.splitlines())) <= 120
    assert all(f"{of['cell']} " in text for of in cells)


def test_shards_with_equal_loads_are_left_to_files(tmp_path: Path) -> None:
    even, uneven = compare_run(tmp_path), compare_run(tmp_path, uneven=10**6)
    assert "Shards" not in rendered("table", even)
    assert "hottest" not in rendered("markdown", even)
    assert "### Shards" in rendered("markdown", even)
    assert len(json.loads(rendered("json", even))["runs"][0]["shards"]) == 8
    text = rendered("table", uneven)
    assert "Shards (those that received most" in text
    assert (
        "The hottest shard of alexnet-ps-w4 is 0 on a: it received 2,000,000 bytes, 1.60x the mean." in text
    )


def test_staleness_that_is_always_0_is_left_to_files(tmp_path: Path) -> None:
    fresh, stale = compare_run(tmp_path), compare_run(tmp_path, stale=2)
    assert "Staleness" not in rendered("table", fresh)
    assert "### Staleness" in rendered("markdown", fresh)
    assert "Staleness" in rendered("table", stale)


def test_markdown_keeps_each_table_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    run = compare_run(tmp_path)
    (header,) = (
        line
        for line in rendered("markdown", run).splitlines()
        if line.startswith("| cell") and "step ms" in line
    )
    assert header.count("|") == len(section_of("cells", run).columns) + 1


def test_a_finding_of_a_run_that_did_not_complete_comes_first(tmp_path: Path) -> None:
    cells = compare_cells()
    path = write_run(tmp_path, cells, compare_records(cells), "interrupted")
    text = rendered("table", MeasuredRun(open_run(path)))
    assert text.startswith("The run was interrupted after 24 of 24 measured steps.")


def test_comparing_equal_bytes_of_strategies_calls_them_equal(tmp_path: Path) -> None:
    cells = compare_cells(2)
    made = {"ddp": {}, "ps": {"tcp_tx_bytes": ALEXNET_BYTES // 2, "tcp_rx_bytes": ALEXNET_BYTES // 2}}
    records = list(
        chain.from_iterable(
            steps(of, [1.0] * 4, **{"tcp_tx_bytes": ALEXNET_BYTES} | made[of["strategy"]])
            for of in cells
            if of["model"] == "alexnet"
        )
    )
    section = section_of("strategy_comparisons", MeasuredRun(open_run(write_run(tmp_path, cells, records))))
    (sentence,) = (line for line in section.sentences if "alexnet" in line)
    assert "all processes together send equally many bytes of TCP payload (1.00x)" in sentence


def test_findings_about_varied_cells_name_the_cells(tmp_path: Path) -> None:
    shared = {"strategy": "ddp", "world_size": 2, "hosts": ["h1", "h2"]}
    cells = [
        cell(model, cell=f"{model}-ddp-w2-bucket{size}", bucket_mb=size, **shared)
        for model in MODELS
        for size in (1, 25)
    ]
    records: list[Record] = [row for of in cells for row in steps(of, [1.0, 1.0])]
    run = MeasuredRun(open_run(write_run(tmp_path, cells, records)))
    sentences = section_of("comparisons", run).sentences
    assert len(sentences) == 2
    for sentence, size in zip(sentences, (1, 25), strict=True):
        assert f"(squeezenet-ddp-w2-bucket{size} and alexnet-ddp-w2-bucket{size})" in sentence


def test_every_column_that_a_report_shows_has_a_line_of_legend(tmp_path: Path) -> None:
    runs = [compare_run(tmp_path, stale=1, uneven=10**6) for _ in range(2)]
    sections = read_sections(runs)
    identifying = {"run_id", "small_run_id", "large_run_id", "model", "kind", "other", "base", "peer_host"}
    shown = {name for section in sections if section.noteworthy for name in section.columns}
    declared = {column.name for column in runs[0].run.columns("steps")}
    named = {name.removesuffix("_ci95") for name in shown}
    missing = named - TERMS.keys() - declared - identifying
    assert missing <= {"host", "pushes", "received_bytes", "dropped", "busy_s", "updates", "share"}
    lines = legend(runs, sections)
    assert len(lines) == len(set(lines)) > 30
