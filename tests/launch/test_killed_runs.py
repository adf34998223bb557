"""A driver killed at any moment leaves each step that ended two seconds before, and no broken file."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from commands import Commands, processes_of, wait_until

from distsqz.runs.writer import RUNNING
from tests.own_models import begun_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WITHIN_S = 2.0


@pytest.mark.parametrize("moment", range(10))
def test_every_step_that_ended_two_seconds_before_the_kill_is_readable(
    embedded: Commands, moment: int
) -> None:
    """Every other time with steps of half a second, so that few of them are sent together."""
    model = ("NotingNet", "SlowNotingNet")[moment % 2]
    driver = embedded.start(
        "launch/ddp.py", "--model", f"tests.own_models:{model}", "--image-size", 16, "--batch-size", 4,
        "--steps", 1_000_000, "--warmup-steps", 0,
    )  # fmt: skip
    folder = embedded.runs.parent
    assert wait_until(lambda: len(begun_steps(folder)) == 2, timeout_s=120)
    time.sleep(random.Random(moment).uniform(3, 9))
    killed_at = time.time()
    driver.kill()
    home = Path(embedded.ray["RAY_TMPDIR"])
    assert wait_until(lambda: all("::" in each for each in processes_of(home).values()), timeout_s=20)
    for process in processes_of(home):
        os.kill(process, signal.SIGKILL)
    run = embedded.finish(driver).run
    assert run.meta["status"] == RUNNING
    assert run.faults() == []
    for name in run.tables:
        assert len(pd.read_parquet(run.path / f"{name}.parquet")) == run.table(name).num_rows
    steps = run.table("steps").to_pandas()
    transfers = run.table("transfers").to_pandas()
    for rank, begun in begun_steps(folder).items():
        ended = {step for step, at in enumerate(begun[1:]) if at <= killed_at - WITHIN_S}
        print(
            f"rank {rank}: {len(begun)} steps begun, {len(ended)} ended in time, {len(steps) // 2} readable"
        )
        assert ended
        assert ended <= set(steps[steps["rank"] == rank]["step"])
        assert ended <= set(transfers[transfers["rank"] == rank]["step"])
