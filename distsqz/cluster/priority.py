"""Who goes first where cores are short: the processes that train, before Ray's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable

import psutil

LEAST_PRIORITY = 19
LOW_PRIORITY = {"raylet": 10, "gcs_server": 10}
"""These are to notice when a driver dies though its workers still fill every core: a tenth of a core is
enough for that. At the workers' own priority they cost AlexNet 4% of its step (benchmarks/overhead)."""


def raise_priority() -> None:
    """Gives this process the usual priority, whatever it has inherited; only root may."""
    for thread in psutil.Process().threads():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread.id, 0)


def lower_priority(processes: Iterable[psutil.Process], trainers: Collection[int]) -> None:
    """Lets processes yield to those whose ids are in `trainers`.

    Ray's agents, monitors and idle actors use a tenth of a core; where workers fill every core, they would
    hold up now one rank and now another, and with it all of them. In the gaps that communication leaves they
    find their time.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in trainers:
                niceness = LOW_PRIORITY.get(process.name(), LEAST_PRIORITY)
                for thread in process.threads():  # Linux counts niceness by thread
                    os.setpriority(os.PRIO_PROCESS, thread.id, niceness)
