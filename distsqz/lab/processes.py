"""The processes that are a lab: one holder a host, found by what they are, not by a record gone stale."""

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
MODULE = "distsqz.lab.host"
HOME = Path("/tmp/ray/home")
"""Of root on the hosts, so that what is installed or left there is the host's own."""
PROJECT = Path(__file__).parents[2]
SWITCH = "switch"
"""The holder of the bridge's namespace, where nothing runs but this."""
END_TIMEOUT_S = 5.0


@dataclass
class Starting:
    """A holder on its way up: it says `ready`, is told to go on, says `up`."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def wait_for(self, word: str) -> None:
        """Returns once it has said `word`.

        Raises:
            RunError: it ended instead.
        """
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != word:
            said = self.log.read_text().strip().splitlines() or ["it said nothing"]
            raise RunError(f"the emulated host did not come up ({said[-1]})", host=self.name)

    def tell(self, word: str) -> None:
        """Lets it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


def start_holder(state: LabState, name: str) -> Starting:
    """Starts the process that a host, or the switch, lives and dies with."""
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
    """The living holders of the lab kept in `directory`: process ids by host name (and `switch`)."""
    found = {}
    wanted = [MODULE, str(directory / "lab.json")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = _words(process)
            if words[-3:-1] == wanted and _is_first_in_namespace(process):
                found[words[-1]] = int(process.name)
        except OSError:  # it has ended meanwhile
            continue
    return found


def end(directory: Path) -> None:
    """Ends every holder of a lab, and with it every process of its hosts; returns when they are gone.

    Raises:
        RunError: one does not end.
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
    """The command line that runs `command` on a host, here where the caller stands."""
    return [
        *("nsenter", "--target", str(pid), *NAMESPACES, "--"),
        *("env", f"--chdir={Path.cwd()}", f"HOME={HOME}"),
        *(f"{name}={value}" for name, value in variables(state, host).items()),
        *("taskset", "--cpu-list", ",".join(map(str, host.cores))),
        *command,
    ]


def variables(state: LabState, host: Host) -> dict[str, str]:
    """Environment of a host's processes: where the lab is, what Ray may count on and where its files go."""
    resources = f'{{"CPU": {len(host.cores)}, "memory": {host.memory_bytes}}}'
    return {
        LAB_VARIABLE: str(state.path),
        HOST_VARIABLE: host.name,
        "RAY_OVERRIDE_RESOURCES": resources,
        "RAY_TMPDIR": "/tmp",  # every host has a /tmp/ray of its own, whatever TMPDIR says
        "RAY_worker_niceness": "0",
    }


def namespace(pid: int) -> str:
    """The network namespace of a holder, as pyroute2 takes it."""
    return f"/proc/{pid}/ns/net"


def _all_of(directory: Path) -> list[int]:
    """Every process of the lab that is of this namespace: holders, and the `unshare` above each of them."""
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
    """The command line of a process of this user; others' are none, whatever they call themselves."""
    if process.stat().st_uid != os.geteuid():
        return []
    return (process / "cmdline").read_text(errors="replace").split("\0")[:-1]


def _is_first_in_namespace(process: Path) -> bool:
    status = (process / "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    numbers = line.split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"
