"""Resident memory and page faults of a worker's process, as the kernel counts them.

Sources: "/proc/<pid>/statm" in proc(5); ru_minflt and ru_majflt in getrusage(2).
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from distsqz.metering.host import CounterFile
from distsqz.metering.instrument import Place
from distsqz.runs.columns import column


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryColumns:
    """Memory of the worker's process during a step."""

    rss_bytes: int = column(
        "Resident memory of the worker's process at the end of the step.",
        unit="bytes",
        combine="max",
        heading="resident_bytes",
    )
    minor_faults: int = column(
        "Page faults of the worker's process that needed nothing from disk, such as the first use of a page.",
        unit="faults",
        combine="mean",
        heading="minor_faults",
    )
    major_faults: int = column(
        "Page faults of the worker's process that were served from disk.",
        unit="faults",
        combine="mean",
        heading="major_faults",
    )


class _Reading(NamedTuple):
    rss_bytes: int
    minor_faults: int
    major_faults: int


class MemoryMeter:
    """Reads the memory of this process, all of its threads."""

    columns: ClassVar[type[Any]] = MemoryColumns
    counts_traffic: ClassVar[bool] = False

    def __init__(self) -> None:
        self._statm = CounterFile(Path("/proc/self/statm"))

    @classmethod
    def open(cls, _place: Place) -> Self:
        """Opens the meter of this process."""
        return cls()

    def read(self) -> _Reading | None:
        """Resident bytes now, and page faults since the process started; None if there is no /proc."""
        pages = self._statm.read()
        if not pages:
            return None
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return _Reading(pages[1] * resource.getpagesize(), usage.ru_minflt, usage.ru_majflt)

    def between(self, before: _Reading, after: _Reading) -> MemoryColumns:
        """The memory at the second reading, and the faults between the two."""
        return MemoryColumns(
            rss_bytes=after.rss_bytes,
            minor_faults=after.minor_faults - before.minor_faults,
            major_faults=after.major_faults - before.major_faults,
        )

    def close(self) -> None:
        """Closes the counter's file."""
        self._statm.close()
