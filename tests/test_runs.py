"""The run directory, whatever becomes of a write."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distsqz.metering.schema import EvaluationRecord
from distsqz.runs import INTERRUPTED, Run, RunWriter

RECORD = EvaluationRecord(cell="c", step=1, samples_seen=8, bytes_so_far=None, accuracy=0.5, loss=1.0)


@pytest.mark.parametrize("cut_short_by", [KeyboardInterrupt, OSError])
def test_what_a_flush_could_not_write_is_written_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_short_by: type[BaseException]
) -> None:
    def cut_short(*_: object) -> None:
        raise cut_short_by

    writer = RunWriter.create(tmp_path, "test", [], {}, [])
    writer.append("evaluations", [RECORD])
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", cut_short)
        with pytest.raises(cut_short_by):
            writer.flush()
    assert Run(writer.path).table("evaluations").num_rows == 0
    writer.append("evaluations", [RECORD])
    writer.finish(INTERRUPTED)
    assert Run(writer.path).table("evaluations").num_rows == 2
