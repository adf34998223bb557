"""The first process of an emulated host: `python -m distsqz.lab.host_process LAB_FILE HOST`, PID 1 in its
namespaces.

It mounts the host's own view of the machine, prints `ready`, waits until its link exists, starts the SSH
server, prints `up`, and then only reaps processes that have ended. When it ends, the kernel ends every
process of the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from distsqz.lab.processes import HOME, PROJECT, SWITCH, holders, namespace
from distsqz.lab.ssh import SSHD
from distsqz.lab.state import Host, LabState, load
from distsqz.metering.wire import SWITCH_NAMESPACE

MS_BIND, MS_REC = 4096, 16384
CONTROL_GROUPS = Path("/sys/fs/cgroup")
PRIVATE = (Path("/dev/shm"), Path("/tmp/ray"))


def main(lab_file: Path, name: str) -> None:
    """Sets the host up and runs until it is killed, or until the owner of the lab ends."""
    state = load(lab_file)
    assert state is not None
    if name != SWITCH:  # before /proc of the host replaces the machine's
        switch = namespace(holders(state.directory)[SWITCH])
        _mount(switch, state.directory / SWITCH_NAMESPACE, None, MS_BIND)
    _mount("proc", Path("/proc"), "proc")
    _mount_sysfs()
    for setting in ("all", "default"):
        with contextlib.suppress(FileNotFoundError):  # the kernel has no IPv6
            Path(f"/proc/sys/net/ipv6/conf/{setting}/disable_ipv6").write_text("1")
    host = None if name == SWITCH else state.host(name)
    if host:
        _make_host(state, host)
    print("ready", flush=True)
    sys.stdin.readline()
    sshd = _start_sshd(state, host) if host and state.ssh else None
    print("up", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_end_with_owner, args=(state, name), daemon=True).start()
    _reap(state, host, sshd)


def _mount_sysfs() -> None:
    """Mounts /sys anew, so that /sys/class/net shows the network namespace; control groups are kept."""
    with contextlib.ExitStack() as stack:
        groups = None
        with contextlib.suppress(FileNotFoundError):
            groups = os.open(CONTROL_GROUPS, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, groups)
        _mount("sysfs", Path("/sys"), "sysfs")
        if groups is not None:  # they hold the CPU quota that emulated hosts share
            _mount(f"/proc/self/fd/{groups}", CONTROL_GROUPS, None, MS_BIND | MS_REC)


def _make_host(state: LabState, host: Host) -> None:
    socket.sethostname(host.name)
    os.sched_setaffinity(0, host.cores)
    for place in PRIVATE:
        if not place.exists():
            place.mkdir(exist_ok=True)
            place.chmod(0o777)  # writable for every user, as Ray creates it
        _mount("tmpfs", place, "tmpfs")
    for name in ("hosts", "passwd"):
        _mount(str(state.directory / name), Path("/etc") / name, None, MS_BIND)
    HOME.mkdir()
    (HOME / "distsqz").symlink_to(PROJECT)
    for name in (".bashrc", ".bash_profile"):  # a login shell resets PATH first
        (HOME / name).write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")


def _start_sshd(state: LabState, host: Host) -> subprocess.Popen[bytes]:
    config = state.directory / f"sshd-{host.name}"
    Path("/run/sshd").mkdir(exist_ok=True)  # as Debian's service does
    return subprocess.Popen(
        [SSHD, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def _reap(state: LabState, host: Host | None, sshd: subprocess.Popen[bytes] | None) -> None:
    """Reaps processes that have ended, forever, and restarts an SSH server that has ended."""
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            time.sleep(0.2)
            continue
        if sshd and host and pid == sshd.pid:
            time.sleep(1)
            sshd = _start_sshd(state, host)


def _end_with_owner(state: LabState, name: str) -> None:
    """Ends the host when stdin closes, unless it first delivers `keep`: nothing owns the lab then."""
    if sys.stdin.readline().strip() != "keep":
        if name == SWITCH:
            shutil.rmtree(state.directory, ignore_errors=True)
        os._exit(0)


def _mount(source: str, target: Path, kind: str | None, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = kind.encode() if kind else None
    if libc.mount(source.encode(), os.fsencode(target), encoded, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount {source} on {target}: {os.strerror(code)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
