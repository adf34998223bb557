"""Environment of a run: the driver's machine, versions of packages, and the commit of this code."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from distsqz.runs.cores import cores_of_this_host, cpu_quota


def git_commit() -> str | None:
    """Commit of this code, with `-dirty` if files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed package may lie in somebody else's repository, of which it is no part.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True
        )
        output = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.stdout.strip() or None


class Environment(TypedDict):
    """The driver's machine, and the versions that are needed to repeat a run."""

    host: str
    platform: str
    """Kernel and C library."""
    python: str
    cpu: str | None
    """The model of the CPU; None where it cannot be read."""
    cores: int
    """Whole cores that CPU affinity and quota leave; at least 1."""
    cpu_quota: float | None
    """CPU quota of the driver's control groups, in cores; None where there is none."""
    memory_bytes: int
    versions: dict[str, str]
    """Version by package."""


def environment() -> Environment:
    """The environment of this process."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": cores_of_this_host(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": _versions("distsqz", "torch", "ray", "numpy", "pandas", "pyarrow"),
    }


def _versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed."""
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
