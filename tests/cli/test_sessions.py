"""Several sessions of one command: where one fails, those before it are still reported on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distsqz import open_run
from distsqz.cli import measure
from distsqz.cli.measure_options import MeasureOptions
from distsqz.errors import RequestError, RunError

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from handmade_runs import cell, steps, write_run


def failing_in(session: int, error: BaseException, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has sessions recorded by hand, until one of them raises an error."""
    recorded: list[Any] = []

    def record(*_: Any) -> Any:
        recorded.append(open_run(write_run(root / str(len(recorded)), [of := cell()], steps(of, [1.0] * 4))))
        if len(recorded) == session:
            raise error
        return recorded[-1]

    monkeypatch.setattr(measure, "plan", lambda *_, **__: (SimpleNamespace(notices=[]), []))
    monkeypatch.setattr(measure, "record", record)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RunError("rank 1 died"), RunError),
        (RequestError("rank 1 died"), RunError),
        (OSError("rank 1 died"), OSError),
        (KeyboardInterrupt("rank 1 died"), KeyboardInterrupt),
    ],
)
def test_sessions_before_one_that_fails_are_reported_on(
    error: BaseException,
    raised: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing_in(3, error, tmp_path, monkeypatch)
    with pytest.raises(raised, match="rank 1 died"):
        measure.measure("compare", ["squeezenet"], MeasureOptions(format="json"), sessions=4)
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["runs"]) == 2
    assert "session 3 of 4 did not end, the report is on those before it" in printed.err


def test_a_first_session_that_fails_leaves_nothing_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_in(1, RequestError("no such Ray"), tmp_path, monkeypatch)
    with pytest.raises(RequestError, match="no such Ray"):
        measure.measure("compare", ["squeezenet"], MeasureOptions(), sessions=3)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
