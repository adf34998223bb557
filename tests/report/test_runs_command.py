"""`distsqz runs`: lists runs and removes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handmade_runs import cell, write_run

from distsqz.cli import main

PAIR = [cell("squeezenet"), cell("alexnet")]


def test_runs_are_listed_with_status_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, PAIR)
    main.run("runs", ["--runs", str(tmp_path), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["run"], row["status"], row["cells"]) == (run.name, "complete", 2)
    assert row["size_bytes"] == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())


def test_a_run_is_removed_and_others_stay(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, PAIR), write_run(tmp_path, PAIR)
    main.run("runs", ["remove", first.name, "--runs", str(tmp_path)])
    assert not first.exists()
    assert second.exists()


def test_a_run_that_has_not_ended_is_kept_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, PAIR)
    meta = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(meta | {"status": "running"}))
    with pytest.raises(SystemExit) as stop:
        main.run("runs", ["remove", run.name, "--runs", str(tmp_path)])
    assert stop.value.code == 2
    assert "--force" in capsys.readouterr().err
    main.run("runs", ["remove", run.name, "--runs", str(tmp_path), "--force"])
    assert not run.exists()
