"""The lab's network: a bridge in a namespace of its own, and a veth pair a host, shaped at both ends.

In the switch's namespace stands the bridge `br0`, with a port of the host's name for each; in the host its
other end, `eth0`. Each end's queue shapes what it sends: `eth0` what the host sends, the port what the host
receives. Their counters see every frame as it goes out on the wire, headers included (a veth device's own do
not).
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
"""Longest time that a frame may wait in a queue, which sets the queue's length. That of a real host, 1000
packets of 1514 bytes to 64 KiB (txqueuelen), takes as long at 24 Mbit/s to 1 Gbit/s. A queue of 100 ms still
drops packets at 20 Mbit/s where several connections look for the link's rate at once."""


def netlink_error() -> type[Exception]:
    """What the kernel's refusals of a netlink request are raised as."""
    from pyroute2.netlink.exceptions import NetlinkError  # Linux only

    error: type[Exception] = NetlinkError
    return error


@contextmanager
def netlink(pid: int | None = None) -> Iterator[Any]:
    """A netlink socket in the namespace of a holder, or in this process's own."""
    with open_netlink(namespace(pid) if pid else None) as route:
        yield route


def make_switch(pid: int) -> None:
    """Makes the bridge; one that is there is left as it is."""
    with netlink(pid) as route:
        _up(route, "lo")
        if _index(route, BRIDGE) is None:
            route.link("add", ifname=BRIDGE, kind="bridge", br_forward_delay=0, br_mcast_snooping=0)
        _up(route, BRIDGE)


def connect(state: LabState, host: Host, switch: int, pid: int) -> None:
    """Links a host to the bridge, gives it its address and shapes the link."""
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
    """Links the machine itself to the bridge, unshaped, so that it reaches the hosts."""
    name = uplink_name(state.name)
    if not has_link(name):
        with netlink(switch) as route:
            _make_pair(route, UPLINK, {"ifname": name, "net_ns_pid": os.getpid()})
    with suppress(OSError):  # its router solicitations and the like would be counted on every link
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    with netlink() as here:
        here.addr("replace", index=_index(here, name), address=state.gateway, prefixlen=state.prefix_length)
        _up(here, name)


def uplink_name(lab: str) -> str:
    """Of the one device that a lab has in the machine's own namespace."""
    return f"dsq-{lab}"


def has_link(name: str) -> bool:
    """Whether the machine has a device of that name."""
    with netlink() as route:
        return _index(route, name) is not None


def remove_link(name: str) -> None:
    """Removes a device of the machine and its other end, at once: a namespace goes in its own time."""
    with netlink() as route:
        index = _index(route, name)
        if index is not None:
            with suppress(netlink_error()):  # its other end went meanwhile, and took it along
                route.link("del", index=index)


def shape(host: Host, switch: int, pid: int) -> None:
    """Sets the rate of a host's link both ways, at once and for connections under way too."""
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
    """Whether both ends of a host's link are there."""
    for holder, device in ((pid, DEVICE), (switch, host.name)):
        with netlink(holder) as route:
            if _index(route, device) is None:
                return False
    return True


def read_queues(host: Host, switch: int, pid: int) -> WireCounters | None:
    """The counters of both queues of a host's link; None where an end of it is missing or not shaped."""
    try:
        meter = WireMeter(host.name, namespace(switch), namespace(pid))
    except LookupError:
        return None
    try:
        return meter.read()
    finally:
        meter.close()


def subnets_in_use() -> list[IPv4Network]:
    """What this machine has routes to, but for the ways to everywhere else (a VPN's may be two halves)."""
    found = []
    with netlink() as route:
        for each in route.get_routes(family=2, table=254):
            address, length = each.get_attr("RTA_DST"), each["dst_len"]
            if address and length >= 8:
                found.append(IPv4Network(f"{address}/{length}"))
    return found


def _make_pair(route: Any, port: str, peer: dict[str, Any]) -> None:
    """A veth pair whose near end is a port of the bridge; an old one of that name goes."""
    old = _index(route, port)
    if old is not None:
        with suppress(netlink_error()):  # it went meanwhile, with the namespace of its other end
            route.link("del", index=old)
    route.link("add", ifname=port, kind="veth", peer=peer)
    route.link("set", index=_index(route, port), master=_index(route, BRIDGE), state="up")


def _hardware_address(host: Host) -> str:
    """The same whenever the host is made, for others remember it for half a minute and more."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *IPv4Address(host.address).packed))


def _up(route: Any, name: str) -> None:
    route.link("set", index=_index(route, name), state="up")


def _index(route: Any, name: str) -> int | None:
    found = route.link_lookup(ifname=name)
    return int(found[0]) if found else None
