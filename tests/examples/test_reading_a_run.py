"""`examples/reading_a_run.py`, the notebook, on a run with known figures."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.report.handmade_runs import ALEXNET_BYTES, SQUEEZENET_BYTES, cell, steps, write_run

NOTEBOOK = Path(__file__).parents[2] / "examples" / "reading_a_run.py"

pytestmark = pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")


def test_the_notebook_reads_bytes_times_and_phases_of_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeezenet, alexnet = cell(), cell("alexnet")
    records = [*steps(squeezenet, [1.0, 2.0, 3.0]), *steps(alexnet, [10.0, 40.0, 20.0])]
    run = write_run(tmp_path / "runs", [squeezenet, alexnet], records)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")

    result = runpy.run_path(str(NOTEBOOK))

    assert result["newest"].resolve() == run.resolve()
    names = [squeezenet["cell"], alexnet["cell"]]
    assert result["step_s"].loc[names].tolist() == [2.0, 20.0]
    assert result["sent_bytes"]["logical_tx_bytes"].loc[names].tolist() == [SQUEEZENET_BYTES, ALEXNET_BYTES]
    shares = result["shares"].loc[names]
    assert shares["exposed_comm_s"].tolist() == pytest.approx([0.4, 0.4])
    assert shares.sum(axis="columns").tolist() == pytest.approx([1.0, 1.0])
