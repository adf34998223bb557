"""Labs for tests: each with a name of its own, taken down in the end, and what one has left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distsqz.lab import lab, links
from distsqz.lab.privileges import is_true_root, what_is_missing
from distsqz.lab.processes import holders
from distsqz.lab.ssh import SSHD
from distsqz.lab.state import LabState, directory_of, load

ROOT = Path(__file__).parents[2]
STREAM = Path(__file__).with_name("stream.py")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Finished:
    """What a command left to its user."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Commands:
    """`launch/lab.py` about one lab, as a user runs it."""

    name: str

    def __call__(self, command: str, *options: object, then: Sequence[object] = ()) -> Finished:
        """Runs a subcommand; `then` stands after `--`."""
        return finish(self.start(command, *options, then=then))

    def start(self, command: str, *options: object, then: Sequence[object] = ()) -> subprocess.Popen[str]:
        """Starts a subcommand; where there is no sshd, `up` is asked for none."""
        if command == "up" and not SSHD.exists() and "--no-ssh" not in options:
            options = (*options, "--no-ssh")
        rest = ["--", *then] if then else []
        words = [sys.executable, "launch/lab.py", command, "--name", self.name, *options, *rest]
        return _start([str(word) for word in words])

    def do(self, command: str, *options: object, then: Sequence[object] = ()) -> str:
        """Runs a subcommand that must succeed; gives what it printed."""
        done = self(command, *options, then=then)
        assert done.status == 0, done.stderr
        return done.stdout

    def up(self, hosts: int = 1, rate: str = "1gbit", with_ssh: bool = False) -> None:
        """Brings it up, or mends it, in this process: sooner than by the command."""
        lab.up(self.name, lab.LabOptions(hosts=hosts, rate=rate), with_ssh)

    def down(self) -> None:
        """Takes it down, in this process."""
        lab.down(self.name)

    def on(self, host: str, *command: object) -> str:
        """What a command printed on a host; it must succeed."""
        here = lab.find(self.name)
        line = here.inside(here.state.host(host), [str(word) for word in command])
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start_on(self, host: str, *command: object) -> subprocess.Popen[str]:
        """Starts a command on a host."""
        here = lab.find(self.name)
        return _start(here.inside(here.state.host(host), [str(word) for word in command]))

    def status(self) -> dict[str, dict[str, Any]]:
        """The rows of `status`, by host."""
        return {row["host"]: row for row in lab.find(self.name).status()}

    @property
    def directory(self) -> Path:
        """Of the lab."""
        return directory_of(self.name)

    @property
    def state(self) -> LabState:
        """As its file tells it."""
        state = load(self.directory / "lab.json")
        assert state is not None
        return state

    def pids(self) -> dict[str, int]:
        """Its holders, and the switch's."""
        return holders(self.directory)


def _start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> Finished:
    """Waits for a command that was started."""
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return Finished(process.returncode, stdout, stderr)


def need_lab() -> None:
    """Skips the test where no lab can be made."""
    if reason := what_is_missing():
        pytest.skip(reason)


def need_root() -> None:
    """Skips the test where this process is not the machine's root."""
    need_lab()
    if not is_true_root():
        pytest.skip("takes the machine's root")


def need_sshd() -> None:
    """Skips the test where hosts get no sshd."""
    need_root()
    if not SSHD.exists() or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        pytest.skip("OpenSSH is not installed")


def new_name() -> str:
    """A name that no other lab has."""
    return "x" + secrets.token_hex(3)


@contextlib.contextmanager
def commands() -> Iterator[Commands]:
    """Commands about a lab that is not up yet; whatever the test did, nothing is left in the end."""
    need_root()
    here = Commands(new_name())
    try:
        yield here
        here.down()
        assert traces(here.name) == []
    finally:
        here.down()


@contextlib.contextmanager
def lab_up(hosts: int = 1, rate: str = "1gbit", with_ssh: bool = False) -> Iterator[Commands]:
    """Commands about a lab that is up."""
    with commands() as here:
        here.up(hosts, rate, with_ssh)
        yield here


def namespaces(pid: int | str) -> dict[str, str]:
    """A process's namespaces, by kind, such as `net:[4026531840]`."""
    return {
        kind: str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "pid", "mnt", "uts", "ipc")
    }


def networks_of(directory: Path) -> dict[str, str]:
    """Network namespaces of the processes whose words or variables name a lab's directory, by process."""
    networks = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if f"{directory}/".encode() in words:
                networks[process.name] = namespaces(process.name)["net"]
        except OSError:  # it has ended meanwhile
            continue
    return networks


def namespaces_of(pids: dict[str, int]) -> set[str]:
    """All namespaces of these holders, none of which is the caller's."""
    return {each for pid in pids.values() for each in namespaces(pid).values()}


def traces(name: str, made: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """What there is of a lab on this machine: directory, link, processes, mounts, and namespaces it `made`.

    A namespace that nothing needs any more goes in the kernel's own time, so this waits a little.
    """
    found = _traces(name, made)
    end = time.monotonic() + 20
    while found and time.monotonic() < end:
        time.sleep(0.05)
        found = _traces(name, made)
    return found


def _traces(name: str, made: set[str]) -> list[str]:
    directory = directory_of(name)
    found = [str(directory)] if directory.exists() else []
    found += [device.name for device in Path("/sys/class/net").iterdir() if device.name == f"dsq-{name}"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            mounts = (process / "mountinfo").read_text(errors="replace")
            places = [str(link.readlink()) for kind in ("ns", "fd") for link in (process / kind).iterdir()]
        except OSError:  # it has ended meanwhile, or is another user's
            continue
        if f"{directory}/".encode() in words:
            found.append(f"process {process.name}")
        if f"{directory}/" in mounts or any(each in mounts for each in made):
            found.append(f"mount in process {process.name}")
        if made.intersection(places):
            found.append(f"namespace in process {process.name}")
    return found


def links_of_the_machine() -> set[str]:
    """Names of its network devices."""
    return {device.name for device in Path("/sys/class/net").iterdir()}


def kill(pid: int) -> None:
    """Kills a process and returns when it is gone."""
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not _runs(pid), 20)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status


def wait_until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


@contextlib.contextmanager
def device(name: str) -> Iterator[None]:
    """A network device of the machine that is no lab's."""
    with links.netlink() as route:
        route.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}p"})
    try:
        yield
    finally:
        links.remove_link(name)


def reaches(here: Commands, host: str, other: str, timeout_s: float = 20) -> bool:
    """Whether one host answers another: with a refusal, at a port where nothing listens."""
    code = "import socket, sys; trial = socket.socket(); trial.settimeout(float(sys.argv[2]))\n"
    code += "print(trial.connect_ex((sys.argv[1], 9)))"
    return here.on(host, sys.executable, "-c", code, other, timeout_s) == str(errno.ECONNREFUSED)


@dataclass(frozen=True)
class Stream:
    """What one host received of another, in pieces, by the receiver's clock."""

    pieces: list[tuple[float, int]]

    @property
    def bytes(self) -> int:
        """Of payload."""
        return sum(size for _, size in self.pieces)

    def goodput_bits_per_s(self, start_s: float, end_s: float) -> float:
        """Between two moments after the stream began."""
        began = self.pieces[0][0]
        inside = [(at - began, size) for at, size in self.pieces if start_s <= at - began <= end_s]
        first, last = inside[0][0], inside[-1][0]
        return 8 * sum(size for _, size in inside[1:]) / (last - first)


@contextlib.contextmanager
def stream(here: Commands, sender: str, receiver: str, seconds: float) -> Iterator[Callable[[], Stream]]:
    """A TCP stream that has just begun; call what it gives to wait for its end."""
    python = [sys.executable, STREAM]
    receiving = here.start_on(receiver, *python, "receive")
    sending = None
    try:
        assert receiving.stdout is not None
        port = receiving.stdout.readline().strip()
        assert port, receiving.stderr.read() if receiving.stderr else ""
        sending = here.start_on(sender, *python, "send", receiver, port, seconds)
        assert receiving.stdout.readline() == "begun\n"

        def to_its_end() -> Stream:
            done = finish(receiving)
            assert done.status == 0, done.stderr
            return Stream([(at, size) for at, size in json.loads(done.stdout)])

        yield to_its_end
        assert finish(sending).status == 0
    finally:
        for process in (receiving, sending):
            if process is not None:
                process.kill()
                process.communicate()
