"""Who goes first where cores are short: the processes that train, before Ray's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable

import psutil

LEAST_PRIORITY = 19
AT_ONCE = ("raylet", "gcs_server")
"""Stay as they are: they hardly compute, workers that they start inherit their priority, and when a driver
dies it is they who must notice, though its workers still fill every core."""


def come_forward() -> None:
    """Gives this process the usual priority, whatever it has inherited; only root may."""
    for thread in psutil.Process().threads():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread.id, 0)


def step_aside(processes: Iterable[psutil.Process], trainers: Collection[int]) -> None:
    """Lets processes yield to those whose ids are in `trainers`.

    Ray's agents, monitors and idle actors use a tenth of a core; where workers fill every core, they would
    hold up now one rank and now another, and with it all of them. In the gaps that communication leaves they
    find their time.
    """
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in trainers and process.name() not in AT_ONCE:
                for thread in process.threads():  # Linux counts niceness by thread
                    os.setpriority(os.PRIO_PROCESS, thread.id, LEAST_PRIORITY)
