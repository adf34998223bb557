"""The run directory, whatever becomes of a write, and whatever is in it when it is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distsqz import open_run
from distsqz.errors import RequestError
from distsqz.metering.schema import TABLES, EvaluationRecord
from distsqz.runs.arrow import schema_of
from distsqz.runs.listing import newest_run
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, INTERRUPTED, RunWriter

RECORD = EvaluationRecord(cell="c", step=1, samples_seen=8, bytes_so_far=None, accuracy=0.5, loss=1.0)
TRAINED = {"cell": "c", "model": "m", "strategy": "ddp", "world_size": 2}
SHIPPED = {"cell": "c", "kind": "shipment", "model": "m", "file_bytes": 8, "clients": 2}


def whole_run(root: Path, cell: dict[str, Any] = TRAINED, records: int = 2) -> Run:
    """A run that completed, with so many evaluations."""
    writer = RunWriter.create(root, "test", [], {}, [cell], tables=TABLES)
    writer.append("evaluations", [RECORD] * records)
    writer.finish(COMPLETE)
    return open_run(writer.path)


def only_part(run: Path, table: str) -> Path:
    """The file that holds all of a table once its run has ended."""
    (part,) = (run / f"{table}.parquet").iterdir()
    return part


def edited(run: Run, edit: Callable[[dict[str, Any]], object]) -> Path:
    """The directory of a run whose run.json was changed."""
    meta = json.loads((run.path / "run.json").read_text())
    edit(meta)
    (run.path / "run.json").write_text(json.dumps(meta))
    return run.path


def started(run: Run, when: str) -> Path:
    """The directory of a run that claims to have started then."""
    return edited(run, lambda meta: meta.update(started_at=when))


@pytest.mark.parametrize("cut_short_by", [KeyboardInterrupt, OSError])
def test_what_a_flush_could_not_write_is_written_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_short_by: type[BaseException]
) -> None:
    def cut_short(*_: object) -> None:
        raise cut_short_by

    writer = RunWriter.create(tmp_path, "test", [], {}, [], tables=TABLES)
    writer.append("evaluations", [RECORD])
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", cut_short)
        with pytest.raises(cut_short_by):
            writer.flush()
    assert open_run(writer.path).table("evaluations").num_rows == 0
    writer.append("evaluations", [RECORD])
    writer.finish(INTERRUPTED)
    assert open_run(writer.path).table("evaluations").num_rows == 2


def test_a_whole_run_has_no_faults(tmp_path: Path) -> None:
    assert whole_run(tmp_path).faults() == []


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named_and_read_as_empty(tmp_path: Path, table: str) -> None:
    run = whole_run(tmp_path)
    shutil.rmtree(run.path / f"{table}.parquet")
    assert run.faults() == [f"Warning: the run has no {table}.parquet; what it held is unknown."]
    assert run.table(table).num_rows == 0


def test_a_table_of_other_length_than_when_the_run_ended_is_named(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, "test", [], {}, [TRAINED], tables=TABLES)
    writer.append("evaluations", [RECORD])
    writer.flush()
    older = shutil.copytree(writer.path / "evaluations.parquet", tmp_path / "older")
    writer.append("evaluations", [RECORD])
    writer.finish(COMPLETE)
    shutil.rmtree(writer.path / "evaluations.parquet")
    shutil.copytree(older, writer.path / "evaluations.parquet")
    assert open_run(writer.path).faults() == [
        "Warning: evaluations.parquet has 1 of the 2 rows that the run wrote."
    ]


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def cut_in_half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def garbled(file: Path) -> None:
    file.write_bytes(bytes(reversed(file.read_bytes())))


def zeroed_inside(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(len(content) - 12) + content[-8:])


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("spoil", [empty, truncated, cut_in_half, garbled, zeroed_inside, a_directory])
def test_a_table_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, table: str, spoil: Callable[[Path], None]
) -> None:
    run = whole_run(tmp_path)
    part = only_part(run.path, table)
    spoil(part)
    for read in (lambda: run.table(table), run.faults):
        with pytest.raises(RequestError, match=rf"^{part}: cannot be read \(") as refused:
            read()
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("steps.parquet", "cannot be read"),
        ("steps.parquet/part-00000.parquet", "cannot be read"),
        ("run.json", "not a run"),
    ],
)
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, name: str, told: str) -> None:
    run = whole_run(tmp_path)
    (run.path / name).chmod(0)
    with pytest.raises(RequestError, match=f"{told} .*Permission denied"):
        open_run(run.path).table("steps")


def test_a_table_of_another_run_is_refused(tmp_path: Path) -> None:
    run, other = whole_run(tmp_path), whole_run(tmp_path)
    shutil.copytree(other.path / "evaluations.parquet", run.path / "evaluations.parquet", dirs_exist_ok=True)
    for read in (lambda: run.table("evaluations"), run.faults):
        with pytest.raises(RequestError, match=f"belongs to run {other.run_id}; put that of {run.run_id}"):
            read()


def without_loss(table: pa.Table) -> pa.Table:
    return table.drop_columns(["loss"])


def loss_as_text(table: pa.Table) -> pa.Table:
    return table.set_column(
        table.column_names.index("loss"), "loss", pa.array(["much"] * table.num_rows, pa.string())
    )


def loss_unknown(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("loss"), "loss", pa.nulls(table.num_rows, pa.float64()))


def loss_twice(table: pa.Table) -> pa.Table:
    return table.append_column("loss", table["loss"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_loss, "has no column loss"),
        (loss_as_text, "has loss as string, not double"),
        (loss_unknown, "has no value in some rows of loss"),
        (loss_twice, "has loss twice"),
    ],
)
def test_a_table_of_other_columns_is_refused(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    run = whole_run(tmp_path)
    path = only_part(run.path, "evaluations")
    pq.write_table(change(pq.ParquetFile(path).read()), path)
    with pytest.raises(RequestError, match=f"^{path}: {told}; it is no table of this program$"):
        run.table("evaluations")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "\xff\xfe", "[" * 100_000, "{}"])
def test_a_run_json_that_is_none_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    run = whole_run(tmp_path)
    (run.path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(RequestError, match=f"^{run.path}: ") as refused:
        open_run(run.path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["run_id", "status", "started_at", "cells"])
@pytest.mark.parametrize("value", [None, 7, {"a": 1}, [3]])
def test_a_key_of_run_json_of_another_type_is_named(tmp_path: Path, key: str, value: object) -> None:
    path = edited(whole_run(tmp_path), lambda meta: meta.update({key: value}))
    with pytest.raises(RequestError, match=rf"^{path}: run\.json is damaged \({key}"):
        open_run(path)


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        *((TRAINED, key) for key in ("cell", "model", "strategy", "world_size")),
        *((SHIPPED, key) for key in ("cell", "model", "file_bytes", "clients")),
    ],
)
def test_a_key_that_a_cell_lacks_is_named(tmp_path: Path, cell: dict[str, Any], key: str) -> None:
    path = edited(whole_run(tmp_path, cell), lambda meta: meta["cells"][0].pop(key))
    with pytest.raises(
        RequestError, match=rf"^{path}: run\.json is damaged \(cells\.0\.{key}: Field required"
    ):
        open_run(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("world_size", "two"),
        ("world_size", 0),
        ("hosts", "h1"),
        ("hosts", [{}]),
        ("steps", 2.5),
        ("emulated_rate_bits_per_s", {"h1": "fast"}),
    ],
)
def test_a_key_of_a_cell_of_another_type_is_named(tmp_path: Path, key: str, value: object) -> None:
    path = edited(whole_run(tmp_path), lambda meta: meta["cells"][0].update({key: value}))
    with pytest.raises(RequestError, match=rf"^{path}: run\.json is damaged \(cells\.0\.{key}"):
        open_run(path)


def test_the_newest_run_is_the_one_that_started_last_whatever_its_name_and_time_zone(tmp_path: Path) -> None:
    oldest, newest, older = (whole_run(tmp_path) for _ in range(3))
    started(oldest, "2026-01-01T12:00:00+00:00").rename(tmp_path / "zz-baseline-old")
    started(older, "2026-01-01T13:30:00+00:00")
    started(newest, "2026-01-01T12:00:00-02:00").rename(tmp_path / "a")
    assert newest_run(tmp_path) == tmp_path / "a"


def test_a_link_to_a_run_and_a_copy_of_it_are_that_run(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    (tmp_path / "latest-good").symlink_to(run.path)
    shutil.copytree(run.path, tmp_path / "a-copy")
    shutil.copytree(run.path, tmp_path / "zz-copy")
    assert newest_run(tmp_path) == run.path


def test_what_is_no_run_is_skipped_and_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path)
    for name, content in (("zz", '{"distance_km": 5}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    (tmp_path / "notes").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert newest_run(tmp_path) == run.path
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skipped: ")
    assert f"{tmp_path / 'zz'}: schema_version None" in line
    assert f"{tmp_path / 'broken'}: not a run directory" in line
    assert "notes" not in line


def test_where_nothing_is_a_run_the_reasons_are_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "zz").mkdir()
    (tmp_path / "zz" / "run.json").write_text("{}")
    with pytest.raises(RequestError, match=r"no run there yet.*\(skipped: .*zz: schema_version None"):
        newest_run(tmp_path)


def evaluations_of(steps: range) -> list[EvaluationRecord]:
    return [replace(RECORD, step=step) for step in steps]


def flushed_run(root: Path, flushes: int) -> RunWriter:
    """A run still going, with one evaluation a flush."""
    writer = RunWriter.create(root, "test", [], {}, [TRAINED], tables=TABLES)
    for record in evaluations_of(range(flushes)):
        writer.append("evaluations", [record])
        writer.flush()
    return writer


@pytest.mark.parametrize("flushes", [0, 1, 58, 59, 60, 150])
def test_a_run_still_going_is_read_whole_and_in_order_by_us_and_by_pandas(
    tmp_path: Path, flushes: int
) -> None:
    path = flushed_run(tmp_path, flushes).path
    expected = list(range(flushes))
    assert open_run(path).table("evaluations")["step"].to_pylist() == expected
    assert pd.read_parquet(path / "evaluations.parquet")["step"].tolist() == expected


def test_parts_are_merged_so_that_a_long_run_has_few_files(tmp_path: Path) -> None:
    writer = flushed_run(tmp_path, 200)
    assert len(list((writer.path / "evaluations.parquet").iterdir())) <= 200 // 60 + 60
    writer.finish(COMPLETE)
    assert only_part(writer.path, "evaluations").name == "part-00000-00200.parquet"
    assert open_run(writer.path).table("evaluations")["step"].to_pylist() == list(range(200))


def test_a_writer_killed_between_merging_parts_and_removing_them_leaves_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    writer = flushed_run(tmp_path, 58)
    writer.append("evaluations", [replace(RECORD, step=58)])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    assert len(list((writer.path / "evaluations.parquet").iterdir())) == 61
    assert open_run(writer.path).table("evaluations")["step"].to_pylist() == list(range(59))
    writer.finish(INTERRUPTED)
    assert open_run(writer.path).table("evaluations")["step"].to_pylist() == list(range(59))
    assert len(pd.read_parquet(only_part(writer.path, "evaluations"))) == 59


@pytest.mark.parametrize("interrupted_at", ["os.replace", "just behind it"])
def test_an_interrupted_flush_is_repeated_without_a_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: str
) -> None:
    replace_file = Path.replace

    def interrupt(file: Path, target: Path) -> None:
        if interrupted_at != "os.replace":
            replace_file(file, target)
        raise KeyboardInterrupt

    writer = flushed_run(tmp_path, 1)
    writer.append("evaluations", [replace(RECORD, step=1)])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    writer.append("evaluations", [replace(RECORD, step=2)])
    writer.flush()
    assert open_run(writer.path).table("evaluations")["step"].to_pylist() == [0, 1, 2]


def test_a_reader_whose_parts_are_merged_meanwhile_reads_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = flushed_run(tmp_path, 30)
    run, open_file = open_run(writer.path), Path.open

    def merged_before(file: Path, *arguments: Any, **options: Any) -> Any:
        if file.name == "part-00010.parquet" and file.exists():
            writer.finish(COMPLETE)
        return open_file(file, *arguments, **options)

    monkeypatch.setattr(Path, "open", merged_before)
    assert run.table("evaluations")["step"].to_pylist() == list(range(30))


@pytest.mark.parametrize(
    ("name", "value"), [("type", "complex"), ("meaning", None), ("combine", "median"), ("nullable", "yes")]
)
def test_a_column_that_is_declared_wrongly_is_named(tmp_path: Path, name: str, value: object) -> None:
    run = whole_run(tmp_path)
    path = edited(run, lambda meta: meta["columns"]["steps"][0].update({name: value}))
    with pytest.raises(RequestError, match=rf"^{path}: run\.json is damaged \(columns\.steps\.0\.{name}"):
        open_run(path)


@pytest.mark.parametrize("table", TABLES)
def test_a_run_tells_what_its_columns_mean(tmp_path: Path, table: str) -> None:
    declared = whole_run(tmp_path).meta["columns"][table]
    assert [column["name"] for column in declared] == schema_of(TABLES[table]).names
    assert all(column["meaning"].endswith(".") for column in declared)
    for suffix, unit in (
        ("_s", "seconds"),
        ("_bytes", "bytes"),
        ("_ns", "nanoseconds"),
        ("_us", "microseconds"),
    ):
        named = [column for column in declared if column["name"].endswith(suffix)]
        assert all(column["unit"].startswith((unit, "bytes/s")) for column in named), (suffix, named)
