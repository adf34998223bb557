"""How many CPU cores this process may keep busy: its affinity, and the CPU quota of its control groups.

Sources: the Linux kernel's Documentation/admin-guide/cgroup-v2.rst ("cpu.max") and
Documentation/scheduler/sched-bwc.rst (version 1); proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROCESS = Path("/proc/self")
ROOT = Path("/")


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups."""

    version: int
    group: str
    """The control group that is visible at `point`."""
    point: str
    """Where it is mounted, relative to the root directory."""


def cores_of_this_host() -> int:
    """Whole cores that this process may keep busy, by its CPU affinity and its CPU quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _within_quota(allowed)


def cores_of_this_machine() -> int:
    """Whole cores that all hosts emulated on this machine may keep busy together; at least 1."""
    return _within_quota(os.cpu_count() or 1)


def cpu_quota(process: Path = PROCESS, root: Path = ROOT) -> float | None:
    """The smallest CPU quota of this process's control groups and their ancestors, in cores.

    Args:
        process: directory that holds the process's `cgroup` and `mountinfo`.
        root: directory that mount points are relative to.

    Returns:
        None where there is no quota, or none that this process can see.
    """
    quotas = [_quota_of(group) for group in _groups(process, root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _within_quota(cores: int) -> int:
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _groups(process: Path, root: Path) -> Iterator[Path]:
    """Directories of the control groups that may limit the process's CPU time: its own and all ancestors."""
    for version, path in _memberships(process).items():
        mounts = [mount for mount in _mounts(process) if mount.version == version]
        around = [mount for mount in mounts if path.is_relative_to(mount.group)]
        for mount in around:
            below = path.relative_to(mount.group)
            yield from (root / mount.point / group for group in (below, *below.parents))
        if not around:  # in some containers the path is as seen from inside, and the mount as from outside
            yield from (root / mount.point for mount in mounts)


def _memberships(process: Path) -> dict[int, PurePosixPath]:
    """The process's control group by version of cgroups; in version 1 that of the cpu controller."""
    groups = {}
    for line in _lines(process / "cgroup"):
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" and not controllers:
            groups[2] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            groups[1] = PurePosixPath(path)
    return groups


def _mounts(process: Path) -> Iterator[_Mount]:
    for line in _lines(process / "mountinfo"):
        of_mount, _, of_filesystem = line.partition(" - ")
        group, point = (_unescaped(field) for field in of_mount.split(" ")[3:5])
        kind, _, options = of_filesystem.split(" ")[:3]
        if kind == "cgroup2":
            yield _Mount(2, group, point.lstrip("/"))
        elif kind == "cgroup" and "cpu" in options.split(","):
            yield _Mount(1, group, point.lstrip("/"))


def _quota_of(group: Path) -> float | None:
    """The quota that is set for one control group, in cores."""
    words = _words(group / "cpu.max") or [
        *_words(group / "cpu.cfs_quota_us"),
        *_words(group / "cpu.cfs_period_us"),
    ]
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    quota_us, period_us = map(int, words)
    return quota_us / period_us


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _unescaped(field: str) -> str:
    r"""A field of mountinfo, where a space is written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
