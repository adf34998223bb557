"""Labs that cannot be, and commands about none: one line that says what would be right, nothing half-made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from labs import (
    ROOT,
    Commands,
    Finished,
    device,
    lab_up,
    links_of_the_machine,
    need_root,
    need_sshd,
    new_name,
    traces,
)

from distsqz.errors import RequestError
from distsqz.lab import lab, links, privileges
from distsqz.lab.lab import LabOptions
from distsqz.lab.state import labs_directory


def check_refused(refused: Finished) -> str:
    """The one line of a refusal."""
    assert refused.status == 2, refused.stderr
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rate": "fast"}, ("rate fast", "such as 1gbit")),
        ({"rate": "0.1mbit"}, ("rate 0.1mbit", "1mbit at least")),
        ({"rate": "100gbit"}, ("rate 100gbit", "30gbit at most")),
        ({"hosts": 0}, ("hosts 0", "1 to 64")),
        ({"hosts": 65}, ("hosts 65", "1 to 64")),
        ({"memory": "1tib"}, ("memory 1tib", "such as 2gib")),
        ({"memory": "x"}, ("memory x", "such as 2gib")),
        ({"memory": "1mib"}, ("memory 1mib", "256mib at least")),
        ({"memory": "9000gib"}, ("memory 9000gib", "MiB are free", "fewer `hosts` or less `memory`")),
        ({"cpus_per_host": 0}, ("cpus_per_host 0", "the cores of this machine")),
        ({"head_cpus": 10_000}, ("head_cpus 10000", "the cores of this machine")),
        ({"subnet": "ten"}, ("subnet ten", "such as 198.18.0.0/24")),
        ({"subnet": "10.0.0.0/25"}, ("subnet 10.0.0.0/25", "254 addresses")),
        ({"subnet": "10.0.0.1/24"}, ("subnet 10.0.0.1/24", "such as 198.18.0.0/24")),
        ({"subnet": "127.0.0.0/24"}, ("subnet 127.0.0.0/24", "such as 198.18.0.0/24")),
        ({"subnet": "224.0.0.0/24"}, ("subnet 224.0.0.0/24", "such as 198.18.0.0/24")),
    ],
)
def test_an_option_out_of_reason_is_refused(
    fresh: Commands, options: dict[str, Any], told: tuple[str, ...]
) -> None:
    before = links_of_the_machine()
    subnet = options.pop("subnet", None)
    with pytest.raises(RequestError) as refused:
        lab.up(fresh.name, LabOptions(**options), wants_ssh=False, subnet=subnet)
    for part in told:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)
    assert traces(fresh.name) == []
    assert not {name for name in links_of_the_machine() - before if fresh.name in name}


@pytest.mark.parametrize("name", ["UPPER", "1st", "eightlong", "a/b", "", "ünder"])
@pytest.mark.parametrize("command", ["up", "down"])
def test_what_cannot_be_a_name_is_refused(name: str, command: str) -> None:
    need_root()
    with pytest.raises(RequestError, match=f"name {name}: up to 7"):
        lab.up(name, LabOptions(), wants_ssh=False) if command == "up" else lab.down(name)


def test_a_name_in_use_by_another_lab_is_refused_and_that_lab_left_alone(pair: Commands) -> None:
    before = pair.pids()
    line = check_refused(pair("up", "--hosts", 3, "--no-ssh"))
    assert f"--name {pair.name}: in use, by a lab of 2 hosts at 100mbit" in line
    assert pair.pids() == before
    assert {row["rate"] for row in pair.status().values()} == {"100mbit"}


@pytest.mark.parametrize(
    ("option", "made_with"),
    [
        (("--memory", "300mib"), "--memory {memory}mib"),
        (("--cpus-per-host", 2), "--head-cpus 1 --cpus-per-host 1"),
        (("--head-cpus", 2), "--head-cpus 1"),
        (("--subnet", "198.19.200.0/24"), "--subnet {subnet}"),
        (("--hosts", 3), "--hosts 2"),
    ],
)
def test_an_option_that_a_lab_cannot_take_on_any_more_is_refused(
    pair: Commands, option: tuple[object, ...], made_with: str
) -> None:
    if "cpus" in str(option[0]) and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("takes two cores")
    before = pair.state
    line = check_refused(pair("up", "--no-ssh", "--hosts", 2, "--rate", "100mbit", *option))
    told = made_with.format(memory=f"{before.hosts[0].memory_bytes / 2**20:.12g}", subnet=before.subnet)
    assert f"at 100mbit, made with {told}; take it down first" in line
    assert pair.state == before


def test_memory_that_a_lab_has_may_be_asked_for_again_whatever_is_free_now(
    fresh: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root()
    options = LabOptions(hosts=1, memory="300mib")
    lab.up(fresh.name, options, wants_ssh=False)
    monkeypatch.setattr("distsqz.lab.lab.available_memory", lambda: 0)
    lab.up(fresh.name, options, wants_ssh=False)
    lab.up(fresh.name, LabOptions(hosts=1), wants_ssh=False)
    assert fresh.state.hosts[0].memory_bytes == 300 << 20


def test_words_after_a_command_that_takes_none_are_refused(fresh: Commands) -> None:
    line = check_refused(fresh("down", then=["--all"]))
    assert line == "error: -- --all: only run and ssh take a command; leave it out"


def test_a_device_that_is_no_lab_s_is_left_alone(fresh: Commands) -> None:
    need_sshd()
    name = links.uplink_name(fresh.name)
    with device(name):
        assert f"a device {name} is there that is no lab's" in check_refused(fresh("up", "--hosts", 1))
        assert not fresh.directory.exists()
        assert not lab.down(fresh.name)
        assert links.has_link(name)


def test_a_subnet_that_this_machine_has_a_route_to_is_refused(fresh: Commands) -> None:
    need_sshd()
    with lab_up() as other:
        line = check_refused(fresh("up", "--hosts", 1, "--subnet", other.state.subnet))
        assert f"--subnet {other.state.subnet}: this machine has a route there already" in line
    with device("dsqtest"):
        subprocess.run(["ip", "link", "set", "dsqtest", "up"], check=True)
        subprocess.run(["ip", "address", "add", "198.19.7.1/24", "dev", "dsqtest"], check=True)
        assert "route there already" in check_refused(fresh("up", "--subnet", "198.19.7.0/24"))


def test_a_subnet_asked_for_is_had(fresh: Commands) -> None:
    fresh.do("up", "--hosts", 1, "--subnet", "198.19.8.0/24", "--no-ssh")
    assert fresh.status()["h1"]["address"] == "198.19.8.1"


@pytest.mark.parametrize(
    ("command", "then"),
    [
        (("status",), ()),
        (("rate", "1gbit"), ()),
        (("cut", "h1"), ()),
        (("run", "h1"), ("true",)),
    ],
)
def test_a_command_about_no_lab_is_refused(
    fresh: Commands, command: tuple[str, ...], then: Sequence[str]
) -> None:
    line = check_refused(fresh(*command, then=then))
    assert line == f"error: --name {fresh.name}: no such lab is up; `distsqz lab up` makes one"


@pytest.mark.parametrize(
    ("command", "then", "told"),
    [
        (("run", "h1"), (), "run: give a command after --"),
        (("run", "h9"), ("true",), "host h9: lab {name} has h1, h2"),
        (("cut", "h9"), (), "host h9: lab {name} has h1, h2"),
        (("rate", "1gbit", "--host", "h9"), (), "host h9: lab {name} has h1, h2"),
        (("rate", "quick"), (), "rate quick: give a number"),
    ],
)
def test_a_command_that_a_lab_cannot_follow_is_refused(
    pair: Commands, command: tuple[str, ...], then: Sequence[str], told: str
) -> None:
    assert told.format(name=pair.name) in check_refused(pair(*command, then=then))


def test_a_missing_sshd_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    name = new_name()
    monkeypatch.setattr("distsqz.lab.ssh.SSHD", Path("/nowhere/sshd"))
    with pytest.raises(RequestError, match=r"sshd is missing; .*openssh-server.*`ssh=False` does without"):
        lab.up(name, LabOptions(hosts=1), wants_ssh=True)
    assert traces(name) == []


def test_more_hosts_than_memory_carries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distsqz.lab.lab.available_memory", lambda: 1 << 30)
    with pytest.raises(RequestError, match=r"hosts 5: 1024 MiB are free, each takes 256 MiB; 4 at most"):
        lab.up(new_name(), LabOptions(hosts=5), wants_ssh=False)


def test_a_directory_of_labs_that_is_another_user_s_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need_root()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    monkeypatch.setattr("distsqz.lab.state.labs_directory", lambda: theirs)
    with pytest.raises(RequestError, match=f"{theirs}: belongs to another user"):
        lab.up(new_name(), LabOptions(hosts=1), wants_ssh=False)
    (tmp_path / "link").symlink_to(labs_directory().parent)
    monkeypatch.setattr("distsqz.lab.state.labs_directory", lambda: tmp_path / "link")
    with pytest.raises(RequestError, match="link: is in the way"):
        lab.up(new_name(), LabOptions(hosts=1), wants_ssh=False)


def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert privileges.what_is_missing() == "unshare is missing (Debian's package util-linux)"


def test_without_a_way_to_namespaces_one_line_says_so(fresh: Commands, tmp_path: Path) -> None:
    """As in a container that may not make any: `unshare` fails."""
    for tool in ("unshare", "nsenter", "taskset"):
        (tmp_path / tool).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    refused = subprocess.run(
        [sys.executable, "launch/lab.py", "up", "--name", fresh.name],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    line = check_refused(Finished(refused.returncode, refused.stdout, refused.stderr))
    assert "root may not make namespaces here" in line
