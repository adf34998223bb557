"""The file of a lab, which commands, hosts and meters share.

The file records what was requested. Which hosts are up follows from the processes (`processes.py`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from distsqz.errors import InvalidValue, RequestError

DEFAULT_NAME = "lab"
DEFAULT_SUBNET = IPv4Network("198.18.0.0/24")
SUBNETS = IPv4Network("198.18.0.0/15")
"""Addresses reserved for benchmarks of network devices (RFC 2544, appendix C.2.2)."""

MAX_HOSTS = 64


@dataclass(kw_only=True)
class Host:
    """One emulated host."""

    name: str
    address: str
    rate_bits_per_s: int
    """Rate of the host's link in each direction, in bits per second."""
    cores: list[int]
    """Cores of the machine that the host's processes may run on."""
    memory_bytes: int
    """Memory that Ray may allocate to tasks on the host, in bytes."""
    is_cut: bool = False
    """Whether the host is disconnected."""


@dataclass(kw_only=True)
class LabState:
    """Settings of a lab, as its file holds them."""

    name: str
    directory: Path
    subnet: str
    ssh: bool
    hosts: list[Host] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.directory / "lab.json"

    @property
    def gateway(self) -> str:
        """The machine's own address in the lab."""
        return str(IPv4Network(self.subnet)[254])

    @property
    def prefix_length(self) -> int:
        """Length of the subnet's prefix, in bits."""
        return IPv4Network(self.subnet).prefixlen

    def host(self, name: str) -> Host:
        """The host with a name.

        Raises:
            InvalidValue: the lab has no such host.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise InvalidValue("host", name, f"lab {self.name} has {', '.join(each.name for each in self.hosts)}")

    def save(self) -> None:
        """Writes the file atomically."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({**asdict(self), "directory": str(self.directory)}, indent=2) + "\n")
        part.replace(self.path)


def labs_directory() -> Path:
    """Directory of this user's labs. Like the labs, it does not survive a reboot."""
    uid = _outer_uid()
    return Path("/run/distsqz") if uid == 0 else Path(f"/tmp/distsqz-{uid}")


def directory_of(name: str) -> Path:
    """Directory of a lab.

    Raises:
        InvalidValue: `name` is not valid as the name of a lab.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]{0,6}", name):
        raise InvalidValue("name", name, "up to 7 lower-case letters and digits, a letter first")
    return labs_directory() / name


def load(path: Path) -> LabState | None:
    """Reads the file of a lab; None if there is no such file.

    Raises:
        RequestError: it is not the file of a lab.
    """
    try:
        read = json.loads(path.read_text())
        hosts = [Host(**host) for host in read.pop("hosts")]
        return LabState(**{**read, "directory": Path(read["directory"])}, hosts=hosts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: not a lab's file ({error}); `distsqz lab down` removes it") from error


def all_labs() -> Iterator[LabState]:
    """All labs of this user."""
    for path in sorted(labs_directory().glob("*/lab.json")):
        try:
            state = load(path)
        except RequestError:
            continue
        if state:
            yield state


def free_subnet(taken: list[IPv4Network]) -> IPv4Network:
    """The first unused /24 in the range for labs. The default lab's subnet is never returned.

    Raises:
        InvalidValue: all subnets are in use.
    """
    for subnet in SUBNETS.subnets(new_prefix=24):
        if subnet != DEFAULT_SUBNET and not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise InvalidValue("subnet", None, f"no /24 of {SUBNETS} is free; name one")


def _outer_uid() -> int:
    """This user's id outside of any user namespace."""
    try:
        first = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return os.getuid()
    return int(first[1]) if len(first) == 3 and first[2] == "1" else os.getuid()
