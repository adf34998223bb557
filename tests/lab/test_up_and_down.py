"""A lab comes up whole, is mended after a crash, and goes without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import (
    ROOT,
    Commands,
    commands,
    finish,
    kill,
    lab_up,
    links_of_the_machine,
    namespaces,
    namespaces_of,
    need_root,
    new_name,
    reaches,
    traces,
    wait_until,
)

from distsqz.errors import RequestError
from distsqz.lab import lab
from distsqz.lab.lab import LabOptions
from distsqz.lab.ssh import SSHD


@pytest.fixture(scope="module")
def four() -> Iterator[Commands]:
    """A lab of four hosts; tests that break it mend it."""
    with lab_up(4, "200mbit", with_ssh=SSHD.exists()) as here:
        yield here


def test_status_names_every_host_its_address_and_its_rate(four: Commands) -> None:
    rows = four.status()
    subnet = four.state.subnet.removesuffix(".0/24")
    assert {name: row["address"] for name, row in rows.items()} == {
        f"h{number}": f"{subnet}.{number}" for number in (1, 2, 3, 4)
    }
    for name, row in rows.items():
        assert (row["rate"], row["link"], row["cores"]) == ("200mbit", "up", 1)
        assert row["pid"] == four.pids()[name]
    assert json.loads(four.do("status", "--format", "json")) == list(rows.values())
    printed = four.do("status").splitlines()
    assert [line.split()[:4] for line in printed[-4:]] == [
        [name, row["address"], "up", "200mbit"] for name, row in rows.items()
    ]


def test_every_host_finds_every_other_by_name(four: Commands) -> None:
    expected = [[row["address"], name] for name, row in four.status().items()]
    for name in four.status():
        said = four.on(name, "getent", "hosts", *four.status())
        assert [line.split() for line in said.splitlines()] == expected


def test_a_host_has_namespaces_of_its_own(four: Commands) -> None:
    pids = four.pids()
    mine = namespaces("self")
    for kind in mine:
        inodes = {namespaces(pid)[kind] for pid in pids.values()}
        assert len(inodes) == len(pids)
        assert mine[kind] not in inodes


def test_a_host_sees_the_control_groups_that_hold_its_cpu_quota(four: Commands) -> None:
    groups = Path("/sys/fs/cgroup")
    assert sorted(four.on("h2", "ls", groups).split()) == sorted(path.name for path in groups.iterdir())


def test_a_host_sees_its_own_processes_only(four: Commands) -> None:
    seen = four.on("h2", "sh", "-c", "cd /proc; for each in [0-9]*; do cat $each/cmdline; echo; done")
    assert "distsqz.lab.host_process" in seen.splitlines()[0]
    assert len(seen.splitlines()) < 6  # sshd, and the shell itself
    assert str(os.getpid()) not in four.on("h2", "ls", "/proc").split()
    assert four.on("h2", "hostname") == "h2"


@pytest.mark.parametrize("place", ["/dev/shm", "/tmp/ray", "~"])
def test_what_a_host_writes_is_its_own(four: Commands, place: str) -> None:
    four.on("h1", "sh", "-c", f"echo mine > {place}/made-on-h1")
    assert four.on("h1", "sh", "-c", f"cat {place}/made-on-h1") == "mine"
    assert "made-on-h1" not in four.on("h2", "sh", "-c", f"ls {place}")
    assert not (Path(place).expanduser() / "made-on-h1").exists()


def test_run_passes_words_directory_and_exit_status_on(four: Commands) -> None:
    said = four.do("run", "h1", then=["sh", "-c", 'pwd; printf "%s|" "$@"', "", "a b", "--name", "$HOME"])
    assert said == f"{ROOT}\na b|--name|$HOME|"
    assert four("run", "h1", then=["sh", "-c", "exit 7"]).status == 7


def test_up_again_changes_nothing(four: Commands) -> None:
    before = four.pids()
    four.do("up", "--hosts", 4, "--rate", "200mbit")
    assert four.pids() == before
    assert {row["link"] for row in four.status().values()} == {"up"}


def test_up_again_sets_the_rate_asked_for_and_heals_cuts(four: Commands) -> None:
    before = four.pids()
    lab.find(four.name).set_cut("h4", True)
    four.up(4, "300mbit", SSHD.exists())
    assert {(row["rate"], row["link"]) for row in four.status().values()} == {("300mbit", "up")}
    four.up(4, "200mbit", SSHD.exists())
    assert four.pids() == before


def test_up_mends_the_host_that_died_and_leaves_the_others_alone(four: Commands) -> None:
    before = four.pids()
    kill(before["h3"])
    rows = four.status()
    assert (rows["h3"]["link"], rows["h3"]["pid"], rows["h3"]["wire_tx_bytes"]) == ("dead", None, None)
    assert rows["h2"]["pid"] == before["h2"]
    four.up(4, "200mbit", SSHD.exists())
    after = four.pids()
    assert after.pop("h3") != before.pop("h3")
    assert after == before
    assert reaches(four, "h1", "h3")
    assert reaches(four, "h3", "h2")


@pytest.mark.parametrize("command", [("rate", "2mbit"), ("cut", "h3"), ("run", "h3")])
def test_what_needs_a_host_that_died_says_so_and_changes_nothing(
    four: Commands, command: tuple[str, ...]
) -> None:
    kill(four.pids()["h3"])
    try:
        refused = four(*command, then=["true"] if command[0] == "run" else [])
        assert refused.status == 2
        assert refused.stderr == "error: host h3: has died; `distsqz lab up` brings it back\n"
        assert {row["rate"] for row in four.status().values()} == {"200mbit"}
    finally:
        four.up(4, "200mbit", SSHD.exists())


def test_up_mends_everything_after_the_switch_died(four: Commands) -> None:
    before = four.pids()
    kill(before["switch"])
    with pytest.raises(RequestError, match="no such lab is up"):
        lab.find(four.name)
    four.up(4, "200mbit", SSHD.exists())
    after = four.pids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert reaches(four, "h4", "h1")


def test_a_host_that_dies_again_and_again_is_mended_at_once(four: Commands) -> None:
    for _ in range(3):
        os.kill(four.pids()["h2"], signal.SIGKILL)  # and its link may go while it is made anew
        assert wait_until(lambda: "h2" not in four.pids(), 20)
        four.up(4, "200mbit", SSHD.exists())
        assert reaches(four, "h1", "h2")


@pytest.mark.parametrize("loss", ["unlink", "empty", "corrupt", "everything"])
def test_down_needs_no_file(loss: str) -> None:
    with lab_up(with_ssh=SSHD.exists()) as here:
        made = namespaces_of(here.pids())
        path = here.directory / "lab.json"
        if loss == "everything":
            subprocess.run(["rm", "-rf", here.directory], check=True)
        elif loss == "unlink":
            path.unlink()
        else:
            path.write_text("" if loss == "empty" else '{"hosts": 3}')
        if loss in ("empty", "corrupt"):
            with pytest.raises(RequestError, match=f"{path}: not a lab's file"):
                lab.find(here.name)
        assert lab.down(here.name)
        assert traces(here.name, made) == []


def test_down_of_no_lab_says_so(fresh: Commands) -> None:
    done = fresh("down")
    assert (done.status, done.stdout) == (0, "")
    assert done.stderr == f"no lab {fresh.name} was up\n"


def test_down_ends_what_runs_on_the_hosts() -> None:
    with lab_up() as here:
        running = here.start("run", "h1", then=["sleep", "60"])
        assert wait_until(lambda: "sleep" in here.on("h1", "ps", "ax"), 60)
        here.down()
        assert finish(running).status != 0


def test_up_and_down_leave_nothing_behind() -> None:
    with commands() as here:
        for hosts in (1, 3):
            links, directory = links_of_the_machine(), here.directory
            here.up(hosts, with_ssh=SSHD.exists())
            made = namespaces_of(here.pids())
            assert directory.exists()
            assert len(made) == 5 * (hosts + 1)
            assert links_of_the_machine() - links >= ({f"dsq-{here.name}"} if here.state.ssh else set())
            here.down()
            assert traces(here.name, made) == []
            assert not {each for each in links_of_the_machine() - links if here.name in each}


@pytest.mark.slow
def test_twenty_labs_come_and_go_without_a_trace() -> None:
    made: set[str] = set()
    with commands() as here:
        for _ in range(20):
            here.do("up", "--hosts", 2)
            made |= namespaces_of(here.pids())
            here.do("down")
        assert traces(here.name, made) == []


@pytest.mark.slow
def test_hosts_come_up_and_go_side_by_side() -> None:
    """Eight take less than half of what eight times one takes; some 2 s and 1 s on two idle cores."""

    def seconds(hosts: int) -> float:
        began = time.monotonic()
        here.do("up", "--hosts", hosts)
        here.do("down")
        return time.monotonic() - began

    with commands() as here:
        one, eight = (min(seconds(hosts) for _ in range(3)) for hosts in (1, 8))
    assert eight < 4 * one


def test_two_labs_do_not_collide() -> None:
    with lab_up() as one, lab_up(with_ssh=SSHD.exists()) as other:
        assert one.state.subnet != other.state.subnet
        made = namespaces_of(one.pids())
        assert not made & namespaces_of(other.pids())
        other_pids = other.pids()
        one.down()
        assert traces(one.name, made) == []
        assert other.pids() == other_pids
        assert other.on("h1", "hostname") == "h1"
        assert reaches(other, "h1", "h1")


def test_labs_made_at_the_same_time_get_subnets_of_their_own() -> None:
    with commands() as one, commands() as two, commands() as three:
        starting = [each.start("up", "--hosts", 1) for each in (one, two, three)]
        assert [finish(each).status for each in starting] == [0, 0, 0]
        assert len({each.state.subnet for each in (one, two, three)}) == 3


def test_a_process_that_calls_itself_a_host_is_not_taken_for_one(fresh: Commands) -> None:
    """Nor does one whose words are no text stop the search."""
    need_root()
    words = ["-m", "distsqz.lab.host_process", str(fresh.directory / "lab.json"), "switch"]
    impostor = subprocess.Popen(
        ["unshare", "--user", "--pid", "--fork", "--kill-child", "sh", "-c", "sleep 30; :", *words],
        user="nobody",
    )
    garbled = subprocess.Popen(["sh", "-c", "sleep 30; :", b"\xff\xfe"])
    try:
        cmdline = Path(f"/proc/{impostor.pid}/cmdline")
        assert wait_until(lambda: b"distsqz.lab.host_process" in cmdline.read_bytes(), 20)
        assert impostor.poll() is None
        assert fresh.pids() == {}
        assert not lab.down(fresh.name)
        assert impostor.poll() is None
    finally:
        for process in (impostor, garbled):
            process.kill()
            process.wait()


@pytest.mark.parametrize("seen", ["lab.json", "switch.log", "h1.log", "h8.log"])
def test_an_interrupt_while_a_lab_comes_up_leaves_nothing(fresh: Commands, seen: str) -> None:
    up = fresh.start("up", "--hosts", 8)
    while not (fresh.directory / seen).exists() and up.poll() is None:
        time.sleep(0.001)
    up.send_signal(signal.SIGINT)
    done = finish(up)
    assert (done.status, done.stderr) == (130, "interrupted\n")
    assert traces(fresh.name) == []


OWNER = """
import sys, time
from distsqz.lab import lab
made = lab.up(sys.argv[1], lab.LabOptions(hosts=2), wants_ssh=False, owned=True)
print("up", flush=True)
time.sleep(60)
"""


def test_a_lab_with_an_owner_ends_with_it() -> None:
    need_root()
    with commands() as here:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, here.name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "up\n"
            made = namespaces_of(here.pids())
            assert len(here.pids()) == 3
        finally:
            owner.kill()
            owner.communicate()
        assert traces(here.name, made) == []


def test_a_lab_that_does_not_come_up_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    name = new_name()

    def fail(*_: object) -> None:
        raise OSError("no more of these")

    monkeypatch.setattr("distsqz.lab.links.set_cut", fail)
    with pytest.raises(OSError, match="no more"):
        lab.up(name, LabOptions(hosts=2), wants_ssh=False)
    assert traces(name) == []
    assert not lab.down(name)
