"""Privileges that a lab needs: root, or a user namespace in which this user acts as root."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from distsqz.errors import RequestError
from distsqz.lab.processes import holders
from distsqz.lab.state import directory_of

WHOLE_MACHINE = 2**32 - 1
AS_USER = ("unshare", "--user", "--map-root-user", "--net", "--mount")
A_HOST = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "true")


def what_is_missing() -> str | None:
    """Why no lab can be made on this machine, in one line; None if one can."""
    if sys.platform != "linux":
        return "a lab takes Linux's namespaces"
    if importlib.util.find_spec("pyroute2") is None:
        return "pyroute2 is not installed (pip install 'distsqz[lab]')"
    for tool in ("unshare", "nsenter", "taskset"):
        if not shutil.which(tool):
            return f"{tool} is missing (Debian's package util-linux)"
    if os.geteuid() == 0:
        if _works(*A_HOST):
            return None
        return "root may not make namespaces here (a container without CAP_SYS_ADMIN?)"
    if _works(*AS_USER, *A_HOST):
        return None
    return "neither root nor allowed to make user namespaces (try sudo)"


def is_true_root() -> bool:
    """Whether this process runs as root of the machine, not only as root of a user namespace."""
    try:
        mapping = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return os.geteuid() == 0
    return os.geteuid() == 0 and int(mapping[2]) == WHOLE_MACHINE


def become_root(lab: str) -> None:
    """Returns at once for root; otherwise restarts this program as root of a user namespace.

    If the lab is up, its user namespace is entered; otherwise a new one is created.

    Raises:
        RequestError: no lab can be made here.
    """
    missing = what_is_missing()
    if missing:
        raise RequestError(f"no lab can be made: {missing}")
    if os.geteuid() != 0:
        _again(lab)


def _again(lab: str) -> NoReturn:
    switch = holders(directory_of(lab)).get("switch")
    enter = [*AS_USER]
    if switch:  # the network namespace too: from a host's, this process could not return to the machine's
        enter = ["nsenter", "--target", str(switch), "--user", "--net", "--preserve-credentials"]
    os.execvp(enter[0], [*enter, sys.executable, *sys.orig_argv[1:]])


def _works(*command: str) -> bool:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0
