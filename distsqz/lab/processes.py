"""The processes of a lab: each host has a first process, which is found by its command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from distsqz.errors import RunError
from distsqz.lab.state import Host, LabState
from distsqz.metering.wire import HOST_VARIABLE, LAB_VARIABLE

NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")
MODULE = "distsqz.lab.host_process"
HOME = Path("/tmp/ray/home")
"""Home of root on the hosts. Every host has its own."""
PROJECT = Path(__file__).parents[2]
SWITCH = "switch"
"""Name of the process that holds the bridge's namespace. Nothing else runs there."""
END_TIMEOUT_S = 5.0


@dataclass
class Starting:
    """A first process that is starting: it prints `ready`, waits for a line on stdin, then prints `up`."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def wait_for(self, word: str) -> None:
        """Returns when the process has printed `word`.

        Raises:
            RunError: the process ended before.
        """
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != word:
            lines = self.log.read_text().strip().splitlines() or ["no output"]
            raise RunError(f"the emulated host did not come up ({lines[-1]})", host=self.name)

    def send(self, word: str) -> None:
        """Writes a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


def start_holder(state: LabState, name: str) -> Starting:
    """Starts the first process of a host or of the switch. When it ends, the host ends."""
    log = state.directory / f"{name}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                "unshare",
                *NAMESPACES,
                "--fork",
                "--kill-child",
                sys.executable,
                "-m",
                MODULE,
                state.path,
                name,
            ],
            cwd=PROJECT,
            env={**os.environ, LAB_VARIABLE: str(state.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    return Starting(name, process, log)


def holders(directory: Path) -> dict[str, int]:
    """Process ids of the first processes of the lab in `directory`, by host name (and `switch`)."""
    pids = {}
    wanted = [MODULE, str(directory / "lab.json")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = _words(process)
            if words[-3:-1] == wanted and _is_first_in_namespace(process):
                pids[words[-1]] = int(process.name)
        except OSError:  # the process has ended meanwhile
            continue
    return pids


def end(directory: Path) -> None:
    """Ends all processes of a lab's hosts; returns when they are gone.

    Raises:
        RunError: a process does not end.
    """
    give_up_at = time.monotonic() + END_TIMEOUT_S
    while pids := _all_of(directory):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > give_up_at:
            raise RunError(f"processes of the lab do not end: {pids}")
        time.sleep(0.02)


def inside(state: LabState, host: Host, pid: int, command: list[str]) -> list[str]:
    """Command line that runs `command` on a host, in the current working directory."""
    return [
        *("nsenter", "--target", str(pid), *NAMESPACES, "--"),
        *("env", f"--chdir={Path.cwd()}", f"HOME={HOME}"),
        *(f"{name}={value}" for name, value in variables(state, host).items()),
        *("taskset", "--cpu-list", ",".join(map(str, host.cores))),
        *command,
    ]


def variables(state: LabState, host: Host) -> dict[str, str]:
    """Environment variables of a host's processes: the lab's file, Ray's resources and its directory."""
    resources = f'{{"CPU": {len(host.cores)}, "memory": {host.memory_bytes}}}'
    return {
        LAB_VARIABLE: str(state.path),
        HOST_VARIABLE: host.name,
        "RAY_OVERRIDE_RESOURCES": resources,
        "RAY_TMPDIR": "/tmp",  # every host has a /tmp/ray of its own, whatever TMPDIR says
        "RAY_worker_niceness": "0",
    }


def namespace(pid: int) -> str:
    """Path of the network namespace of a process, as pyroute2 takes it."""
    return f"/proc/{pid}/ns/net"


def _all_of(directory: Path) -> list[int]:
    """Process ids of the first processes of a lab, and of their parents, the `unshare` processes."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = _words(process)
        except OSError:
            continue
        if words[-3:-1] == [MODULE, str(directory / "lab.json")]:
            pids.append(int(process.name))
    return pids


def _words(process: Path) -> list[str]:
    """Command line of a process; empty for processes of other users, which may imitate a lab."""
    if process.stat().st_uid != os.geteuid():
        return []
    return (process / "cmdline").read_text(errors="replace").split("\0")[:-1]


def _is_first_in_namespace(process: Path) -> bool:
    status = (process / "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    numbers = line.split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"
