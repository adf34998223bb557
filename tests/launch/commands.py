"""The commands as a user runs them: subprocesses in the repository root, each with an end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distsqz import open_run
from distsqz.cli import main
from distsqz.lab.processes import holders
from distsqz.lab.state import labs_directory
from distsqz.runs.reader import Run

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 150

SHARED_CPUS = 4
"""Cores of the Ray that many tests join."""

SMALL_MODEL = "tests.own_models:SmallNet"
SMALL = ("--model", SMALL_MODEL, "--image-size", "16", "--batch-size", "4")
"""The least that can be trained."""


@dataclass(frozen=True)
class Finished:
    """What a command left to its user."""

    status: int
    stdout: str
    stderr: str
    runs: Path

    @property
    def run(self) -> Run:
        """The only run in its runs directory."""
        (path,) = self.runs.iterdir()
        return open_run(path)

    def table(self, name: str) -> pd.DataFrame:
        """A table of that run."""
        frame: pd.DataFrame = self.run.table(name).to_pandas()
        return frame

    @property
    def error_line(self) -> str:
        """The only line of stderr that begins with `error:`."""
        (line,) = [line for line in self.stderr.splitlines() if line.startswith("error:")]
        return line


@dataclass(frozen=True)
class Commands:
    """Starts commands that write to one runs directory and find one Ray, or none, in their environment."""

    runs: Path
    ray: dict[str, str]
    """Variables that lead to the Ray."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, script: str, *options: object) -> Finished:
        """Runs a command to its end."""
        return self.finish(self.start(script, *options))

    def here(self, script: str, *options: object) -> Finished:
        """Runs a command to its end in this process, which spares it importing torch: for those refused."""
        stdout, stderr = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        status: object = 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            patch.chdir(ROOT)
            patch.setattr(os, "environ", environment(self.ray))
            try:
                main.run(Path(script).stem, ["--runs", str(self.runs), *map(str, options)])
            except SystemExit as stop:
                status = stop.code or 0
        for number, handler in handlers.items():
            signal.signal(number, handler)
        assert isinstance(status, int)
        return Finished(status, stdout.getvalue(), stderr.getvalue(), self.runs)

    def start(self, script: str, *options: object) -> subprocess.Popen[str]:
        """Starts a command, in a process group of its own as a shell would."""
        process = subprocess.Popen(
            [sys.executable, script, "--runs", str(self.runs), *map(str, options)],
            cwd=ROOT,
            env=environment(self.ray | {"DISTSQZ_TEST_RUNS": str(self.runs)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        """Waits for a command that was started."""
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        return Finished(process.returncode, stdout, stderr, self.runs)

    def end(self) -> None:
        """Ends whatever a failed test left behind."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@contextlib.contextmanager
def commands_that_join(address: str, runs: Path) -> Iterator[Commands]:
    """Commands that join the Ray at `address`."""
    commands = Commands(runs, {"RAY_ADDRESS": address})
    try:
        yield commands
    finally:
        commands.end()


@contextlib.contextmanager
def commands_with_own_ray(runs: Path) -> Iterator[Commands]:
    """Commands that start a Ray of their own; of which nothing may be left in the end."""
    with ray_home() as home:
        commands = Commands(runs, {"RAY_TMPDIR": str(home)})
        try:
            yield commands
            assert wait_until(lambda: not processes_of(home), timeout_s=20), processes_of(home)
        finally:
            commands.end()


@contextlib.contextmanager
def ray_home() -> Iterator[Path]:
    """A directory for a Ray's session; what still runs in it is ended.

    A socket's path has at most 107 characters: pytest's own directories are too deep for Ray.
    """
    home = Path(tempfile.mkdtemp(prefix="ray-"))
    try:
        yield home
    finally:
        for process in processes_of(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def start_head(home: Path, variables: dict[str, str], cpus: int) -> str:
    """Starts a Ray in a directory, as a user's `ray start --head` would; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "ray", "start", "--head", f"--num-cpus={cpus}"]
    command += [f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    variables = {"RAY_TMPDIR": str(home), **variables}
    subprocess.run(command, env=environment(variables), capture_output=True, timeout=60, check=True)
    return f"127.0.0.1:{port}"


def environment(ray: dict[str, str]) -> dict[str, str]:
    """This process's environment, but for what leads to another Ray.

    Without tokens, which Ray would keep in the user's home; unless a home of its own is given.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | ({} if "HOME" in ray else {"RAY_AUTH_MODE": "disabled"}) | ray


def processes_of(directory: Path) -> dict[int, str]:
    """Processes that name a directory in their command or environment, or hold a file in it open."""
    mark = str(directory)
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            variables = (process / "environ").read_bytes().decode(errors="replace")
            files = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:  # it has ended meanwhile
            continue
        if any(mark in text for text in (command, variables, *files)):
            found[int(process.name)] = command
    return found


def own_labs(runs: Path) -> set[str]:
    """Names of the labs that commands with this runs directory have made, and of any that nobody holds."""
    ours = processes_of(runs).keys()
    found = set()
    for directory in labs_directory().glob("t*"):
        pids = set(holders(directory).values())
        if not pids or pids & ours:
            found.add(directory.name)
    return found


def wait_until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def report(path: Path) -> dict[str, Any]:
    """What `analysis/report.py` says of a run."""
    said = subprocess.run(
        [sys.executable, "analysis/report.py", path, "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found
