"""Process priorities: processes that train come before Ray's own if cores are short."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable

import psutil

LEAST_PRIORITY = 19
LOW_PRIORITY = {"raylet": 10, "gcs_server": 10}
"""Niceness of processes that must notice a dead driver while workers still use all cores; a tenth of a core
is enough for that. At the workers' priority they take 4% of AlexNet's step (benchmarks/overhead)."""


def raise_priority() -> None:
    """Sets this process to the normal priority, if it inherited a lower one. Only root may do that."""
    for thread in psutil.Process().threads():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread.id, 0)


def lower_priority(processes: Iterable[psutil.Process], trainers: Collection[int]) -> None:
    """Lowers the priority of processes that do not train.

    Ray's agents, monitors and idle actors use a tenth of a core. If workers use all cores, these processes
    would delay one rank or another, and every delay stalls the whole step. They still run while workers
    communicate.

    Args:
        processes: all processes to consider.
        trainers: ids of the processes that train, which keep their priority.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in trainers:
                niceness = LOW_PRIORITY.get(process.name(), LEAST_PRIORITY)
                for thread in process.threads():  # Linux counts niceness by thread
                    os.setpriority(os.PRIO_PROCESS, thread.id, niceness)
