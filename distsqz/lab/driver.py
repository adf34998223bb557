"""Runs a command on a host of a lab and passes signals on to it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping

import psutil

from distsqz.lab.lab import Lab
from distsqz.lab.state import Host


def run_on(lab: Lab, host: Host, command: list[str], variables: Mapping[str, str]) -> int:
    """Runs a command on a host, passes interrupts on to it, and returns its exit status."""
    line = lab.inside(host, ["env", *(f"{name}={value}" for name, value in variables.items()), *command])
    # In its own session: Ctrl-C in the terminal would end nsenter, which does not pass the signal on.
    process = subprocess.Popen(line, start_new_session=True)
    interrupted = False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            interrupted = True
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children():
                    child.send_signal(signal.SIGINT)
    if interrupted and status not in (0, 130):
        raise KeyboardInterrupt  # the interrupt came while the command started or ended
    return status if status >= 0 else 1
