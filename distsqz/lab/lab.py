"""A lab of emulated hosts: create it, inspect it, change it while it is in use, remove it."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from distsqz.errors import InvalidValue, RequestError, renamed_fields
from distsqz.lab import links, processes, ssh
from distsqz.lab.privileges import is_true_root
from distsqz.lab.processes import HOME, SWITCH
from distsqz.lab.rate import format_rate, parse_rate
from distsqz.lab.state import (
    DEFAULT_NAME,
    DEFAULT_SUBNET,
    MAX_HOSTS,
    Host,
    LabState,
    all_labs,
    directory_of,
    free_subnet,
    load,
)
from distsqz.metering.wire import SWITCH_NAMESPACE
from distsqz.runs.cores import cores_of_this_host

LEAST_MEMORY = 256 << 20
"""Minimum memory of a host, in bytes: a Ray node does not run with less."""


@dataclass(frozen=True, kw_only=True)
class LabOptions:
    """Hosts of a lab and their links."""

    hosts: int = 4
    """Number of emulated hosts. They are named h1, h2, ..."""
    rate: str = "1gbit"
    """Rate of each host's link, in each direction, in kbit, mbit or gbit."""
    head_rate: str | None = None
    """Rate of the link of h1. By default that of the other links."""
    head_cpus: int | None = None
    """Cores of h1. By default as many as each other host has."""
    cpus_per_host: int = 1
    """Cores of each host. Hosts share cores if the machine has fewer in all."""
    memory: str | None = None
    """Memory of each host that Ray may allocate to tasks, for example 2gib. By default the free memory is
    divided equally."""


class Lab:
    """A lab that is up."""

    def __init__(self, state: LabState, holders: dict[str, int]) -> None:
        self.state = state
        self._holders = holders

    @property
    def hosts(self) -> list[Host]:
        """The emulated hosts, h1 first."""
        return self.state.hosts

    def pid_of(self, host: Host) -> int:
        """Process id of the first process of a host.

        Raises:
            RequestError: the process has ended.
        """
        if host.name not in self._holders:
            raise RequestError(f"host {host.name}: has died; `distsqz lab up` brings it back")
        return self._holders[host.name]

    def inside(self, host: Host, command: list[str]) -> list[str]:
        """The command line that runs `command` on a host."""
        return processes.inside(self.state, host, self.pid_of(host), command)

    def set_rate(self, rate_bits_per_s: int, only: str | None = None) -> None:
        """Changes the rate of all links, or of one host's link; connections in use are affected too."""
        with self._changing():
            hosts = [self.state.host(only)] if only else self.hosts
            pids = [self._pid_with_link(host) for host in hosts]  # all of them, or nothing changes
            for host, pid in zip(hosts, pids, strict=True):
                host.rate_bits_per_s = rate_bits_per_s
                links.shape(host, self._holders[SWITCH], pid)

    def set_cut(self, name: str, cut: bool) -> None:
        """Disconnects a host, or connects it again."""
        with self._changing():
            host = self.state.host(name)
            self._pid_with_link(host)
            links.set_cut(host, self._holders[SWITCH], cut)
            host.is_cut = cut

    def _pid_with_link(self, host: Host) -> int:
        pid = self.pid_of(host)
        if not links.is_connected(host, self._holders[SWITCH], pid):
            raise RequestError(f"host {host.name}: has lost its link; `distsqz lab up` brings it back")
        return pid

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Locks the lab, reads its file anew, and writes the changes back."""
        with _locked(self.state.directory):
            now = load(self.state.path)
            if now is None:
                raise InvalidValue("name", self.state.name, "is down")
            self.state = now
            yield
            now.save()

    def status(self) -> list[dict[str, Any]]:
        """One row for each host: its address, its cores, and the state and counters of its link.

        `link` is up, cut, dead (the host's process has ended), missing (an end of the link was removed) or
        unshaped (the queue that shapes the link was replaced). Counters that cannot be read and the rate of a
        link that is not shaped are None.
        """
        return [self._status(host) for host in self.hosts]

    def _status(self, host: Host) -> dict[str, Any]:
        pid = self._holders.get(host.name)
        queues = links.read_queues(host, self._holders[SWITCH], pid) if pid else None
        link = self._link_state(host, pid, shaped=queues is not None)
        return {
            "host": host.name,
            "address": host.address,
            "link": link,
            "rate": None if link in ("missing", "unshaped") else format_rate(host.rate_bits_per_s),
            "cores": len(host.cores),
            "wire_tx_bytes": queues.tx_bytes if queues else None,
            "wire_rx_bytes": queues.rx_bytes if queues else None,
            "wire_tx_packets": queues.tx_packets if queues else None,
            "wire_rx_packets": queues.rx_packets if queues else None,
            "pid": pid,
        }

    def _link_state(self, host: Host, pid: int | None, shaped: bool) -> str:
        if pid is None:
            return "dead"
        if not links.is_connected(host, self._holders[SWITCH], pid):
            return "missing"
        if not shaped:
            return "unshaped"
        return "cut" if host.is_cut else "up"


def up(
    name: str, options: LabOptions, wants_ssh: bool, subnet: str | None = None, owned: bool = False
) -> Lab:
    """Creates a lab, or repairs an existing one. If creation fails, nothing is left behind.

    Args:
        name: name of the lab.
        options: hosts and links.
        wants_ssh: whether every host runs an SSH server (only for the machine's root).
        subnet: a /24, by default the one reserved for the default lab, or an unused one.
        owned: whether the lab ends with this process.

    Raises:
        RequestError: the lab cannot be made as requested, or another lab has the name.
    """
    if wants_ssh:
        ssh.check_sshd()
    with _locked(directory_of(name)):
        existing = load(directory_of(name) / "lab.json")
        wanted = _plan(name, options, wants_ssh, subnet, existing)
        if existing:
            _check_same(wanted, existing)
        elif is_true_root() and links.has_link(links.uplink_name(name)):
            raise InvalidValue(
                "name",
                name,
                f"a device {links.uplink_name(name)} is there that is no lab's; choose another `name`",
            )
        try:
            return _make(existing or wanted, owned)
        except BaseException:
            if not existing:
                _remove(wanted.directory, name)
            raise


def find(name: str) -> Lab:
    """Finds a lab that is up by its name.

    Raises:
        InvalidValue: no such lab is up.
    """
    directory = directory_of(name)
    state, holders = load(directory / "lab.json"), processes.holders(directory)
    if state is None or SWITCH not in holders:
        raise InvalidValue("name", name, "no such lab is up; `distsqz lab up` makes one")
    return Lab(state, holders)


def down(name: str) -> bool:
    """Removes a lab, or what is left of it after a crash; returns whether there was anything to remove."""
    directory = directory_of(name)
    exists = directory.exists() or bool(processes.holders(directory))
    if exists:
        with _locked(directory):
            _remove(directory, name)
    return exists


def _plan(
    name: str, options: LabOptions, wants_ssh: bool, subnet: str | None, existing: LabState | None
) -> LabState:
    """The requested lab. Memory that is not requested is that of the existing lab, if there is one."""
    if not 1 <= options.hosts <= MAX_HOSTS:
        raise InvalidValue("hosts", options.hosts, f"1 to {MAX_HOSTS}")
    for field, cpus in (("cpus_per_host", options.cpus_per_host), ("head_cpus", options.head_cpus)):
        most = cores_of_this_host()
        if cpus is not None and not 1 <= cpus <= most:
            raise InvalidValue(field, cpus, f"1 to {most}, the cores of this machine that may be used")
    rate = parse_rate(options.rate)
    with renamed_fields(rate="head_rate"):
        head_rate = parse_rate(options.head_rate) if options.head_rate else rate
    memory = _requested_memory(options, existing) if existing else _free_memory_per_host(options)
    network = _subnet(name, subnet, wants_ssh)
    cpus_by_host = [options.head_cpus or options.cpus_per_host]
    cpus_by_host += [options.cpus_per_host] * (options.hosts - 1)
    cores = _deal_cores(cpus_by_host)
    hosts = [
        Host(
            name=f"h{index + 1}",
            address=str(network[index + 1]),
            rate_bits_per_s=rate if index else head_rate,
            cores=cores[index],
            memory_bytes=memory,
        )
        for index in range(options.hosts)
    ]
    return LabState(name=name, directory=directory_of(name), subnet=str(network), ssh=wants_ssh, hosts=hosts)


def _deal_cores(cpus_by_host: list[int]) -> list[list[int]]:
    """Assigns cores to hosts in turn, so that every core serves about the same number of hosts."""
    cores = sorted(os.sched_getaffinity(0))
    dealt, position = [], 0
    for cpus in cpus_by_host:
        dealt.append(sorted(cores[(position + index) % len(cores)] for index in range(cpus)))
        position += cpus
    return dealt


def _requested_memory(options: LabOptions, existing: LabState) -> int:
    """Memory of a host of an existing lab, in bytes; what is free now does not matter."""
    return parse_size(options.memory) if options.memory else existing.hosts[0].memory_bytes


def _free_memory_per_host(options: LabOptions) -> int:
    available = available_memory()
    if options.memory is None:
        share = available // options.hosts
        if share < LEAST_MEMORY:
            raise InvalidValue(
                "hosts",
                options.hosts,
                f"{available >> 20} MiB are free, each takes {LEAST_MEMORY >> 20} MiB; "
                f"{available // LEAST_MEMORY} at most",
            )
        return share
    memory = parse_size(options.memory)
    if memory * options.hosts > available:
        raise InvalidValue(
            "memory",
            options.memory,
            f"{options.hosts} hosts would take {memory * options.hosts >> 20} MiB, {available >> 20} MiB are "
            "free; ask for fewer `hosts` or less `memory`",
        )
    return memory


def available_memory() -> int:
    """Bytes of memory that new processes can use without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10


def parse_size(text: str) -> int:
    """Bytes of a size such as `512mib` or `2gib`.

    Raises:
        InvalidValue: it is not a size, or below the minimum.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(mib|gib)", text.strip().lower())
    size = float(match[1]) * {"mib": 1 << 20, "gib": 1 << 30}[match[2]] if match else 0
    if LEAST_MEMORY <= size < math.inf:
        return int(size)
    raise InvalidValue(
        "memory", text, f"a number and mib or gib, such as 2gib; {LEAST_MEMORY >> 20}mib at least"
    )


def _subnet(name: str, asked: str | None, wants_ssh: bool) -> IPv4Network:
    """The lab's subnet: the requested one, that of the existing lab, the default lab's, or an unused one."""
    known = {state.name: IPv4Network(state.subnet) for state in all_labs()}
    if name in known and asked is None:
        return known[name]
    taken = [network for lab, network in known.items() if lab != name]
    own_uplink = name in known
    if wants_ssh and not own_uplink:  # without SSH the machine has no route to the lab
        taken += links.subnets_in_use()
    if asked is None and name != DEFAULT_NAME:
        return free_subnet(taken)
    try:
        network = IPv4Network(asked) if asked else DEFAULT_SUBNET
    except ValueError:
        network = None
    if network is None or network.prefixlen != 24 or not _is_for_hosts(network):
        raise InvalidValue("subnet", asked, f"a network of 254 addresses, such as {DEFAULT_SUBNET}")
    if any(network.overlaps(other) for other in taken):
        raise InvalidValue("subnet", network, "this machine has a route there already; choose another")
    return network


def _is_for_hosts(network: IPv4Network) -> bool:
    """Whether its addresses can belong to hosts: not "this network", loopback, multicast or above."""
    first = network.network_address.packed[0]
    return 0 < first < 224 and first != 127


def _check_same(wanted: LabState, existing: LabState) -> None:
    """Copies the requested rates, which can change while a lab is in use, to an existing lab.

    Raises:
        InvalidValue: the existing lab differs from the requested one in anything else.
    """
    requested = _made_with(wanted)
    differing = [setting for setting in _made_with(existing) if setting not in requested]
    if differing:
        rates = {format_rate(host.rate_bits_per_s) for host in existing.hosts}
        raise InvalidValue(
            "name",
            wanted.name,
            f"in use, by a lab of {len(existing.hosts)} hosts at {', '.join(sorted(rates))}, made with "
            f"{' '.join(differing)}; take it down first, or choose another `name`",
        )
    for ours, theirs in zip(wanted.hosts, existing.hosts, strict=True):
        theirs.rate_bits_per_s = ours.rate_bits_per_s
        theirs.is_cut = False


def _made_with(state: LabState) -> list[str]:
    """The settings that make such a lab, except rates."""
    head, last = state.hosts[0], state.hosts[-1]
    return [
        f"`hosts={len(state.hosts)}`",
        f"`subnet={state.subnet}`",
        f"`ssh={state.ssh}`",
        f"`head_cpus={len(head.cores)}`",
        f"`cpus_per_host={len(last.cores)}`",
        f"`memory={head.memory_bytes / 2**20:.12g}mib`",
    ]


def _make(state: LabState, owned: bool) -> Lab:
    """Starts what is missing, all hosts at the same time."""
    state.save()
    (state.directory / "hosts").write_text(_hosts_file(state))
    (state.directory / "passwd").write_text(_passwd_file())
    (state.directory / SWITCH_NAMESPACE).touch()
    if state.ssh:
        ssh.prepare(state)
        ssh.make_ray_token(state)
    pids = processes.holders(state.directory)
    if SWITCH not in pids:  # its links are gone too
        processes.end(state.directory)
        if is_true_root():  # its other end was in the namespace that ended
            links.remove_link(links.uplink_name(state.name))
        pids = _start(state, [SWITCH], owned)
        links.make_switch(pids[SWITCH])
    if state.ssh:
        links.connect_machine(state, pids[SWITCH])

    def connect(name: str, pid: int) -> None:
        links.connect(state, state.host(name), pids[SWITCH], pid)

    missing = [host.name for host in state.hosts if host.name not in pids]
    lab = Lab(state, pids | _start(state, missing, owned, connect))
    for host in lab.hosts:
        if not links.is_connected(host, pids[SWITCH], lab.pid_of(host)):
            connect(host.name, lab.pid_of(host))
        links.set_cut(host, pids[SWITCH], host.is_cut)
        links.shape(host, pids[SWITCH], lab.pid_of(host))
    return lab


def _start(
    state: LabState, names: list[str], owned: bool, connect: Callable[[str, int], None] | None = None
) -> dict[str, int]:
    """Starts the first processes of hosts together and connects their links; returns their process ids."""
    starting = [processes.start_holder(state, name) for name in names]
    for one in starting:
        one.wait_for("ready")
    pids = processes.holders(state.directory)
    for one in starting:
        if connect:
            connect(one.name, pids[one.name])
        one.send("go")
    for one in starting:
        one.wait_for("up")
        if owned:
            _OWNED.append(one)
        else:
            one.send("keep")
    return {name: pids[name] for name in names}


_OWNED: list[processes.Starting] = []
"""Processes of hosts that end when their pipes to this process close."""


def _hosts_file(state: LabState) -> str:
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in state.hosts)]
    return "\n".join(lines) + "\n"


def _passwd_file() -> str:
    """The machine's users; root has its home on the host, and bash as its shell."""
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    return "".join(
        ":".join([*words[:5], str(HOME), "/bin/bash"] if words[0] == "root" else words) + "\n"
        for words in lines
    )


def _remove(directory: Path, name: str) -> None:
    if is_true_root():
        links.remove_link(links.uplink_name(name))
    processes.end(directory)
    ssh.remove_ray_token(directory)
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Locks this user's labs against other changes. Their directory is removed together with the last lab."""
    root = directory.parent
    descriptor = _lock(root)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # other labs are up
            root.rmdir()
        os.close(descriptor)


def _lock(root: Path) -> int:
    """Opens and locks the directory `root`, which is created if it does not exist; returns its descriptor."""
    while True:
        try:
            root.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # the process that held the lock has removed it
            continue
        except (FileExistsError, NotADirectoryError) as error:
            raise RequestError(f"{root}: is in the way; remove it, or ask its owner to") from error
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise RequestError(f"{root}: belongs to another user; remove it, or ask them to")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), root.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
