"""A command run on a lab's host as if it had been started there, with its signals passed on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping

import psutil

from distsqz.lab.lab import Lab
from distsqz.lab.state import Host


def run_on(lab: Lab, host: Host, command: list[str], variables: Mapping[str, str]) -> int:
    """Runs a command on a host to its end and gives its exit status; an interrupt here is one there."""
    line = lab.inside(host, ["env", *(f"{name}={value}" for name, value in variables.items()), *command])
    # In a session of its own: a Ctrl-C of the terminal would end nsenter, which would not pass it on.
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
        raise KeyboardInterrupt  # it came while the command was still starting, or winding up
    return status if status >= 0 else 1
