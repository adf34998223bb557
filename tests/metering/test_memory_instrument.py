"""Resident memory and page faults, against memory that the test touches itself."""

from __future__ import annotations

import mmap
import resource
from pathlib import Path

import psutil
import pytest

from distsqz.metering.memory import MemoryColumns, MemoryMeter
from distsqz.metering.schema import READINGS, readings_of

PAGES = 4096


def test_touched_pages_are_resident_and_each_is_a_minor_fault() -> None:
    meter, page_bytes = MemoryMeter(), resource.getpagesize()
    memory = mmap.mmap(-1, PAGES * page_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    before = meter.read()
    for page in range(PAGES):
        memory[page * page_bytes] = 1
    after = meter.read()
    assert before is not None and after is not None
    columns = meter.between(before, after)
    assert columns.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, abs=2**20)
    assert after.rss_bytes - before.rss_bytes == pytest.approx(PAGES * page_bytes, abs=2**20)
    assert PAGES <= columns.minor_faults < 1.1 * PAGES
    assert columns.major_faults == 0
    meter.close()


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("distsqz.metering.memory.Path", lambda _: tmp_path / "statm")
    assert MemoryMeter().read() is None


def test_the_memory_of_a_cell_is_that_of_its_largest_rank() -> None:
    assert READINGS["rss_bytes"].combine == "max"
    assert READINGS["minor_faults"].combine == "mean"


def test_two_instruments_with_a_column_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MemoryColumns: column .* is another instrument's; rename it"):
        readings_of([MemoryColumns, MemoryColumns])
