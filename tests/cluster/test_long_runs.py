"""A run of a million transfers costs its driver as much at its end as at its beginning."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from million_transfers import BUCKETS, FLUSHES, RANKS, STEPS_A_FLUSH

from distsqz import open_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def million() -> Iterator[dict[str, Any]]:
    """The output of the driver of such a run. It writes to memory, as disks slow down while writing back."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as runs:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("million_transfers.py"), runs],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        yield json.loads(done.stdout.splitlines()[-1])


def test_a_flush_costs_as_much_after_a_million_rows_as_at_the_start(million: dict[str, Any]) -> None:
    assert open_run(Path(million["run"])).table("transfers").num_rows == 1_000_000
    assert RANKS * BUCKETS * STEPS_A_FLUSH * FLUSHES == 1_000_000
    tenth = FLUSHES // 10
    first_s, last_s = (
        statistics.median(part) for part in (million["flushes_s"][:tenth], million["flushes_s"][-tenth:])
    )
    print(f"median flush: first tenth {first_s * 1e3:.1f} ms, last {last_s * 1e3:.1f} ms")
    assert last_s <= 1.2 * first_s


def test_the_memory_of_the_driver_does_not_grow_with_the_run(million: dict[str, Any]) -> None:
    print({name: million[name] for name in ("growth_bytes", "peak_growth_bytes", "finish_s")})
    assert million["growth_bytes"] < 50e6


def test_a_report_on_a_million_transfers_takes_under_5_s_and_1_gb(million: dict[str, Any]) -> None:
    before_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "analysis/report.py", million["run"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    took_s = time.perf_counter() - before_s
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest child so far
    print(f"report: {took_s:.1f} s, at most {peak_bytes / 1e6:.0f} MB")
    assert "squeezenet" in done.stdout
    assert took_s < 5
    assert peak_bytes < 1e9
