"""Who goes first where cores are short: the processes that train, before Ray's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable

import psutil

LEAST_PRIORITY = 19


def step_aside(processes: Iterable[psutil.Process], trainers: Collection[int]) -> None:
    """Lets processes yield to those whose ids are in `trainers`.

    Ray's daemons and helpers use a tenth of a core; where workers fill every core, they would hold up now one
    rank and now another, and with it all of them. In the gaps that communication leaves they find their time.
    """
    for process in processes:
        # Trainers that a raylet starts later inherit its priority; to raise theirs again takes root.
        priority = 0 if process.pid in trainers else LEAST_PRIORITY
        with contextlib.suppress(psutil.Error, OSError):
            for thread in process.threads():  # Linux counts niceness by thread
                os.setpriority(os.PRIO_PROCESS, thread.id, priority)
