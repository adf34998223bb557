"""The network of a lab: a bridge in its own namespace, and for each host a veth pair, shaped at both ends.

The bridge `br0` is in the switch's namespace and has a port for each host, named after it. The other end of
the pair is `eth0` in the host's namespace. The queue at each end shapes what that end sends: `eth0` what the
host sends, the port what the host receives. The counters of the queues include every frame that goes out on
the wire, with headers (the counters of a veth device do not).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from distsqz.lab.processes import namespace
from distsqz.lab.state import Host, LabState
from distsqz.metering.wire import DEVICE, WireCounters, WireMeter, open_netlink
from distsqz.theory.token_bucket import TokenBucket

BRIDGE, UPLINK = "br0", "uplink"
ROOT_HANDLE = 0x10000
QUEUE_S = 0.5
"""Longest time in seconds that a frame waits in a queue, which determines the queue's length. The queue of a
real host, 1000 packets of 1514 bytes to 64 KiB (txqueuelen), holds as much at 24 Mbit/s to 1 Gbit/s. A queue
of 100 ms drops packets at 20 Mbit/s when several connections search for the rate at the same time."""


def netlink_error() -> type[Exception]:
    """Class of the exceptions for netlink requests that the kernel refuses."""
    from pyroute2.netlink.exceptions import NetlinkError  # Linux only

    error: type[Exception] = NetlinkError
    return error


@contextmanager
def netlink(pid: int | None = None) -> Iterator[Any]:
    """A netlink socket in the network namespace of a process, by default of this process."""
    with open_netlink(namespace(pid) if pid else None) as route:
        yield route


def make_switch(pid: int) -> None:
    """Creates the bridge, unless it exists."""
    with netlink(pid) as route:
        _up(route, "lo")
        if _index(route, BRIDGE) is None:
            route.link("add", ifname=BRIDGE, kind="bridge", br_forward_delay=0, br_mcast_snooping=0)
        _up(route, BRIDGE)


def connect(state: LabState, host: Host, switch: int, pid: int) -> None:
    """Connects a host to the bridge, sets its address and shapes the link."""
    with netlink(switch) as route:
        peer = {"ifname": DEVICE, "address": _hardware_address(host), "net_ns_pid": pid}
        _make_pair(route, host.name, peer)
    with netlink(pid) as route:
        _up(route, "lo")
        index = _index(route, DEVICE)
        route.addr("replace", index=index, address=host.address, prefixlen=state.prefix_length)
        _up(route, DEVICE)
    shape(host, switch, pid)


def connect_machine(state: LabState, switch: int) -> None:
    """Connects the machine itself to the bridge, unshaped, so that it can reach the hosts."""
    name = uplink_name(state.name)
    if not has_link(name):
        with netlink(switch) as route:
            _make_pair(route, UPLINK, {"ifname": name, "net_ns_pid": os.getpid()})
    with suppress(OSError):  # its router solicitations would be counted on every link
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    with netlink() as route:
        route.addr("replace", index=_index(route, name), address=state.gateway, prefixlen=state.prefix_length)
        _up(route, name)


def uplink_name(lab: str) -> str:
    """Name of the only device that a lab has in the machine's network namespace."""
    return f"dsq-{lab}"


def has_link(name: str) -> bool:
    """Whether the machine has a network device with this name."""
    with netlink() as route:
        return _index(route, name) is not None


def remove_link(name: str) -> None:
    """Removes a device of the machine and its other end at once. The kernel removes namespaces later."""
    with netlink() as route:
        index = _index(route, name)
        if index is not None:
            with suppress(netlink_error()):  # it was removed meanwhile, with its other end
                route.link("del", index=index)


def shape(host: Host, switch: int, pid: int) -> None:
    """Sets the rate of a host's link in both directions; connections in use are affected too."""
    for holder, device in ((pid, DEVICE), (switch, host.name)):
        with netlink(holder) as route:
            rate = host.rate_bits_per_s // 8
            burst = TokenBucket(rate).burst_bytes
            route.tc(
                "replace",
                "tbf",
                _index(route, device),
                ROOT_HANDLE,
                rate=rate,
                burst=burst,
                limit=round(rate * QUEUE_S) + burst,
            )


def set_cut(host: Host, switch: int, cut: bool) -> None:
    """Takes a host's link down at the switch, as if its cable were pulled, or up again."""
    with netlink(switch) as route:
        route.link("set", index=_index(route, host.name), state="down" if cut else "up")


def is_connected(host: Host, switch: int, pid: int) -> bool:
    """Whether both ends of a host's link exist."""
    for holder, device in ((pid, DEVICE), (switch, host.name)):
        with netlink(holder) as route:
            if _index(route, device) is None:
                return False
    return True


def read_queues(host: Host, switch: int, pid: int) -> WireCounters | None:
    """Counters of both queues of a host's link; None if an end is missing or not shaped."""
    try:
        meter = WireMeter(host.name, namespace(switch), namespace(pid))
    except LookupError:
        return None
    try:
        return meter.read()
    finally:
        meter.close()


def subnets_in_use() -> list[IPv4Network]:
    """Networks that this machine has routes to, without default routes (a VPN may split its own in two)."""
    networks = []
    with netlink() as route:
        for each in route.get_routes(family=2, table=254):
            address, length = each.get_attr("RTA_DST"), each["dst_len"]
            if address and length >= 8:
                networks.append(IPv4Network(f"{address}/{length}"))
    return networks


def _make_pair(route: Any, port: str, peer: dict[str, Any]) -> None:
    """Creates a veth pair whose near end is a port of the bridge, and replaces an old one with this name."""
    old = _index(route, port)
    if old is not None:
        with suppress(netlink_error()):  # it was removed meanwhile, with the namespace of its other end
            route.link("del", index=old)
    route.link("add", ifname=port, kind="veth", peer=peer)
    route.link("set", index=_index(route, port), master=_index(route, BRIDGE), state="up")


def _hardware_address(host: Host) -> str:
    """Hardware address of a host, always the same: other hosts cache it for half a minute and more."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *IPv4Address(host.address).packed))


def _up(route: Any, name: str) -> None:
    route.link("set", index=_index(route, name), state="up")


def _index(route: Any, name: str) -> int | None:
    indices = route.link_lookup(ifname=name)
    return int(indices[0]) if indices else None
