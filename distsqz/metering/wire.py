"""Frames as an emulated host's shaping queues let them through: the true bytes on the wire, headers included.

A veth device counts a packet of 64 KiB, cut into frames only later, with the headers of one frame; the queue
that shapes the link counts those of every frame (qdisc_pkt_len_init in the kernel's net/core/dev.c).
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from distsqz.metering.instrument import Place
from distsqz.runs.columns import column

LAB_VARIABLE = "DISTSQZ_LAB"
"""Environment variable on every host of a lab: path of the lab's file. The switch's namespace lies beside
it."""
HOST_VARIABLE = "DISTSQZ_LAB_HOST"
"""Environment variable on every host of a lab: the host's name in the lab."""
SWITCH_NAMESPACE = "switch.net"
CLONE_NEWNET = 0x40000000
DEVICE = "eth0"
"""The host's end of its link; the switch's end has the host's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireCounters:
    """What has passed a host's link since it was made, in frames of up to 1514 bytes."""

    tx_bytes: int
    tx_packets: int
    rx_bytes: int
    rx_packets: int

    def since(self, earlier: WireCounters) -> WireCounters:
        """Bytes and frames that passed between an earlier reading and this one."""
        return WireCounters(
            tx_bytes=self.tx_bytes - earlier.tx_bytes,
            tx_packets=self.tx_packets - earlier.tx_packets,
            rx_bytes=self.rx_bytes - earlier.rx_bytes,
            rx_packets=self.rx_packets - earlier.rx_packets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WireColumns:
    """Frames through the queues that shape an emulated host's link during a step, of all processes on it."""

    wire_tx_bytes: int = column(
        "Bytes of frames that left through the queue that shapes an emulated host's link, of every process "
        "on the host, with the headers of every frame. Null where the link is not emulated.",
        unit="bytes",
        combine="mean",
        heading="wire_tx_bytes",
    )
    wire_rx_bytes: int = column(
        "Bytes of frames that arrived through the queue that shapes an emulated host's link.", unit="bytes"
    )
    wire_tx_packets: int = column(
        "Frames that left through the queue that shapes an emulated host's link.", unit="frames"
    )
    wire_rx_packets: int = column(
        "Frames that arrived through the queue that shapes an emulated host's link.", unit="frames"
    )


class WireMeter:
    """The queues at both ends of a host's link: its own for what it sends, the switch's for the rest."""

    columns: ClassVar[type[Any]] = WireColumns
    counts_traffic: ClassVar[bool] = True

    def __init__(self, host: str, switch_namespace: str, host_namespace: str | None = None) -> None:
        """Opens the queues at both ends of a link.

        Args:
            host: the host's name.
            switch_namespace: path of the switch's network namespace.
            host_namespace: path of the host's; by default that of this process.

        Raises:
            OSError, LookupError: there is no such namespace, device or queue.
        """
        self._ends: list[_Queue] = []
        try:
            for namespace, device in ((host_namespace, DEVICE), (switch_namespace, host)):
                self._ends.append(_Queue(namespace, device))
            self.read()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, _place: Place) -> Self | None:
        """The meter of the emulated host that this process is on; None on none, or where it may not read."""
        return cls.of_this_host()

    @classmethod
    def of_this_host(cls) -> Self | None:
        """The meter of the emulated host that this process is on; None on none, or where it may not read.

        The lab's own name for the host is what its link is called; the host name may have been changed.
        """
        lab, host = os.environ.get(LAB_VARIABLE), os.environ.get(HOST_VARIABLE)
        if not lab or not host:
            return None
        try:
            return cls(host, str(Path(lab).parent / SWITCH_NAMESPACE))
        except (OSError, LookupError, ImportError):
            return None

    def read(self) -> WireCounters:
        """The counters now."""
        (tx_bytes, tx_packets), (rx_bytes, rx_packets) = (end.read() for end in self._ends)
        return WireCounters(
            tx_bytes=tx_bytes, tx_packets=tx_packets, rx_bytes=rx_bytes, rx_packets=rx_packets
        )

    def between(self, before: WireCounters, after: WireCounters) -> WireColumns:
        """Bytes and frames that passed between two readings."""
        passed = after.since(before)
        return WireColumns(
            wire_tx_bytes=passed.tx_bytes,
            wire_rx_bytes=passed.rx_bytes,
            wire_tx_packets=passed.tx_packets,
            wire_rx_packets=passed.rx_packets,
        )

    def close(self) -> None:
        """Closes the sockets."""
        for end in self._ends:
            end.close()


@dataclass(frozen=True, slots=True)
class EmulatedHost:
    """An emulated host of a lab."""

    name: str
    address: str
    rate_bits_per_s: int
    """Rate of its link, in each direction."""


def emulated_hosts() -> list[EmulatedHost] | None:
    """The hosts of the lab that this process is in; None if it is in none."""
    lab = os.environ.get(LAB_VARIABLE)
    if not lab:
        return None
    hosts = json.loads(Path(lab).read_text())["hosts"]
    return [EmulatedHost(host["name"], host["address"], host["rate_bits_per_s"]) for host in hosts]


def open_netlink(namespace: str | None) -> Any:
    """A pyroute2 IPRoute in the network namespace of that path, or in this process's own; to be closed.

    A socket stays in the namespace that it was opened in, so this thread steps in and out again. (IPRoute's
    own way there forks this process, with its signal handlers and all that they do; pyroute2's `pushns` makes
    a namespace where there is none, and shares the mounts around it.)

    Raises:
        OSError: there is no such namespace, or it may not be entered.
    """
    from pyroute2 import IPRoute  # Linux only

    if namespace is None:
        return IPRoute()
    with _opened(namespace) as there, _opened("/proc/thread-self/ns/net") as here:
        _enter(there)
        try:
            return IPRoute()
        finally:
            _enter(here)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(descriptor: int) -> None:
    """Moves this thread to a network namespace (`os.setns` is there from Python 3.12 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter a network namespace: {os.strerror(code)}")


class _Queue:
    """The shaping queue of one device in one network namespace."""

    def __init__(self, namespace: str | None, device: str) -> None:
        self._route = open_netlink(namespace)
        found = self._route.link_lookup(ifname=device)
        if not found:
            self.close()
            raise LookupError(f"no device {device}")
        self._device = found[0]

    def read(self) -> tuple[int, int]:
        for queue in self._route.get_qdiscs(self._device):
            if queue.get_attr("TCA_KIND") == "tbf":
                basic = queue.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")
                return int(basic["bytes"]), int(basic["packets"])
        raise LookupError("no shaping queue")

    def close(self) -> None:
        self._route.close()
