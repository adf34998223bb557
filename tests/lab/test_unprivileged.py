"""A user who is not root gets a lab in a user namespace, where the kernel allows it."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from labs import ROOT, Finished, need_root, new_name

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env")


@dataclass(frozen=True)
class Nobody:
    """`launch/lab.py` about one lab, as the user `nobody` runs it."""

    name: str
    python: str

    def __call__(
        self, command: str, *options: object, then: tuple[object, ...] = (), path: str = ""
    ) -> Finished:
        """Runs a subcommand."""
        rest = ["--", *then] if then else []
        words = [self.python, "launch/lab.py", command, "--name", self.name, *options, *rest]
        done = as_nobody([str(word) for word in words], path)
        return Finished(done.returncode, done.stdout, done.stderr)

    def do(self, command: str, *options: object, then: tuple[object, ...] = ()) -> str:
        """Runs a subcommand that must succeed; gives what it printed."""
        done = self(command, *options, then=then)
        assert done.status == 0, done.stderr
        return done.stdout

    @property
    def directory(self) -> Path:
        """Of the lab."""
        return Path(f"/tmp/distsqz-{NOBODY}/{self.name}")


def as_nobody(words: list[str], path: str = "") -> subprocess.CompletedProcess[str]:
    variables = {
        "PATH": os.pathsep.join([*([path] if path else []), "/usr/sbin:/usr/bin:/sbin:/bin"]),
        "HOME": "/nonexistent",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [*AS_NOBODY, "-i", *(f"{name}={value}" for name, value in variables.items()), *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def python() -> str:
    """A Python of this version that `nobody` may run, with this one's packages."""
    need_root()
    for each in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if as_nobody([each, "-c", "import pandas, psutil, pyroute2, tyro"]).returncode == 0:
            return each
    pytest.skip("nobody may not run this Python")


@pytest.fixture
def nobody(python: str) -> Iterator[Nobody]:
    if as_nobody(["unshare", "--user", "--map-root-user", "--net", "true"]).returncode != 0:
        pytest.skip("this kernel gives users no namespaces")
    here = Nobody(new_name(), python)
    try:
        yield here
    finally:
        here("down")
        assert not here.directory.exists()
        assert processes_of(here) == []


def test_a_user_makes_uses_and_removes_a_lab(nobody: Nobody) -> None:
    up = nobody("up", "--hosts", 2, "--rate", "100mbit")
    assert up.status == 0, up.stderr
    assert "not root: the hosts get no sshd" in up.stderr
    assert nobody.do("run", "h2", then=("hostname",)) == "h2\n"
    assert nobody.do("run", "h1", then=("getent", "hosts", "h2")).split()[1] == "h2"
    nobody.do("rate", "20mbit", "--host", "h1")
    nobody.do("cut", "h2")
    rows = json.loads(nobody.do("status", "--format", "json"))
    assert [(row["host"], row["rate"], row["link"]) for row in rows] == [
        ("h1", "20mbit", "up"),
        ("h2", "100mbit", "cut"),
    ]
    refused = nobody("ssh", "h1", then=("true",))
    assert refused.status == 2
    assert "the lab has no sshd" in refused.stderr
    assert len(processes_of(nobody)) == 6
    assert nobody.directory.stat().st_mode & 0o777 == 0o700
    nobody.do("down")
    assert processes_of(nobody) == []
    assert not nobody.directory.exists()


def test_a_user_mends_a_lab(nobody: Nobody) -> None:
    nobody.do("up", "--hosts", 2)
    before = pids(nobody)
    os.kill(before["h2"], 9)
    nobody.do("up", "--hosts", 2)
    after = pids(nobody)
    assert after["h1"] == before["h1"]
    assert after["h2"] != before["h2"]


def test_a_user_without_namespaces_is_told_what_is_missing(python: str) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own is not for `nobody` to look into
        Path(place).chmod(0o755)
        fails = Path(place, "unshare")
        fails.write_text("#!/bin/sh\nexit 1\n")
        fails.chmod(0o755)
        refused = Nobody(new_name(), python)("up", path=place)
    assert refused.status == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: no lab can be made: neither root nor allowed to make user namespaces")


def pids(here: Nobody) -> dict[str, int]:
    return {row["host"]: row["pid"] for row in json.loads(here.do("status", "--format", "json"))}


def processes_of(here: Nobody) -> list[str]:
    """Command lines that name the lab's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if f"{here.directory}/" in words:
            found.append(words)
    return found
