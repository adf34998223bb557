"""Cores that a process may use: by control groups written by hand, and by a real one."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distsqz.runs import cores
from distsqz.runs.cores import cores_of_this_host, cpu_quota

V1, V2 = "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"
MOUNTED_V1 = f"33 31 0:30 / {V1} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
MOUNTED_V2 = f"34 31 0:31 / {V2} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MOUNTED_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
HALF = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
UNLIMITED = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}


def quota(root: Path, memberships: list[str], mounts: list[str], groups: dict[str, dict[str, str]]) -> object:
    """The quota of a process under `root` whose files in /proc/self and control groups hold what is given."""
    (root / "cgroup").write_text("\n".join(memberships) + "\n")
    (root / "mountinfo").write_text("\n".join(["23 1 0:1 / / rw - ext4 /dev/root rw", *mounts]) + "\n")
    for group, files in groups.items():
        directory = root / group.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)
    return cpu_quota(root, root)


def test_the_quota_of_version_2_is_its_maximum_over_its_period(tmp_path: Path) -> None:
    groups = {f"{V2}/job": {"cpu.max": "60000 100000\n"}}
    assert quota(tmp_path, ["0::/job"], [MOUNTED_V2], groups) == 0.6


def test_the_quota_of_version_1_is_that_of_the_cpu_controller(tmp_path: Path) -> None:
    groups = {f"{V1}/job": HALF, f"{V1}/other": {"cpu.cfs_quota_us": "1000", "cpu.cfs_period_us": "100000"}}
    memberships = ["4:memory:/other", "2:cpu,cpuacct:/job", "3:cpuset:/other"]
    assert quota(tmp_path, memberships, [MOUNTED_MEMORY, MOUNTED_V1], groups) == 0.5


@pytest.mark.parametrize("group", ["/outer", "/outer/middle", "/outer/middle/inner"])
def test_the_smallest_quota_among_all_ancestors_counts(tmp_path: Path, group: str) -> None:
    groups = {f"{V2}/outer/middle/inner": {"cpu.max": "150000 100000"}}
    groups |= {f"{V2}/outer": {"cpu.max": "max 100000"}, f"{V2}{group}": {"cpu.max": "70000 100000"}}
    assert quota(tmp_path, ["0::/outer/middle/inner"], [MOUNTED_V2], groups) == 0.7


def test_the_groups_of_others_do_not_count(tmp_path: Path) -> None:
    groups = {f"{V2}/{name}": {"cpu.max": "10000 100000"} for name in ("sibling", "outer/child", "out")}
    assert quota(tmp_path, ["0::/outer"], [MOUNTED_V2], groups) is None


def test_where_both_versions_are_mounted_the_one_with_the_controller_tells(tmp_path: Path) -> None:
    unified = "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    groups = {f"{V1}/job": HALF, "/sys/fs/cgroup/unified/job": {"cgroup.procs": ""}}
    memberships = ["2:cpu,cpuacct:/job", "1:name=systemd:/job", "0::/job"]
    assert quota(tmp_path, memberships, [MOUNTED_V1, unified], groups) == 0.5


@pytest.mark.parametrize(
    ("membership", "mount"),
    [
        ("0::/", MOUNTED_V2),  # a control group namespace
        ("0::/docker/c0ffee", MOUNTED_V2.replace(" / ", " /docker/c0ffee ")),  # none, as of old
        ("0::/", MOUNTED_V2.replace(" / ", " /docker/c0ffee ")),
        ("0::/", MOUNTED_V2.replace(" / ", " /../.. ")),
    ],
)
def test_a_container_has_the_quota_at_the_top_of_what_it_sees(
    tmp_path: Path, membership: str, mount: str
) -> None:
    assert quota(tmp_path, [membership], [mount], {V2: {"cpu.max": "200000 100000"}}) == 2.0


def test_a_mount_point_may_have_spaces_in_its_name(tmp_path: Path) -> None:
    mount = MOUNTED_V2.replace(V2, r"/control\040groups")
    assert quota(tmp_path, ["0::/"], [mount], {"/control groups": {"cpu.max": "30000 100000"}}) == 0.3


def test_no_limit_is_no_quota(tmp_path: Path) -> None:
    groups = {f"{V1}/job": UNLIMITED, f"{V2}/job": {"cpu.max": "max 100000"}}
    assert quota(tmp_path, ["2:cpu:/job", "0::/job"], [MOUNTED_V1, MOUNTED_V2], groups) is None


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path) is None
    assert quota(tmp_path, ["0::/job"], [MOUNTED_V2], {}) is None


@pytest.mark.parametrize(
    ("allowed", "limit", "expected"), [(4, None, 4), (4, 0.6, 1), (4, 2.9, 2), (2, 3.5, 2), (1, 1.0, 1)]
)
def test_cores_are_the_whole_ones_that_affinity_and_quota_leave(
    monkeypatch: pytest.MonkeyPatch, allowed: int, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(cores, "cpu_quota", lambda: limit)
    assert cores_of_this_host() == expected


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group of this machine that has a quota of 0.6 cores."""
    for top, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "60000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "60000 100000"}),
    ):
        group = top / f"distsqz-test-{secrets.token_hex(4)}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, text in files.items():
                with (group / name).open("r+") as file:  # the kernel made it, or there is no controller
                    file.write(text)
            yield group
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no control group with a CPU quota can be made here")


def test_a_process_in_a_real_group_with_a_quota_has_the_cores_of_the_quota(real_group: Path) -> None:
    told = (
        "import json, os, sys; from distsqz.runs.environment import environment;"
        "open(sys.argv[1], 'w').write(str(os.getpid())); print(json.dumps(environment()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", told, real_group / "cgroup.procs"], capture_output=True, text=True, check=True
    )
    environment = json.loads(done.stdout)
    assert (environment["cores"], environment["cpu_quota"]) == (1, 0.6)
