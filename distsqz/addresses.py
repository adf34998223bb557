"""Addresses of hosts, IPv4 and IPv6: listened on, compared, and taken out of HOST:PORT."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


def listen(host: str, backlog: int | None = None) -> socket.socket:
    """A TCP socket that listens on a free port of one of this host's addresses.

    Args:
        host: an IPv4 address, an IPv6 address, or a name.
        backlog: connections that may wait to be accepted; None leaves it to Python.

    Raises:
        OSError: no interface of this host has that address.
    """
    ((family, *_), *_) = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return socket.create_server((host, 0), family=family, backlog=backlog)


def host_of(address: str) -> str:
    """The host of `HOST:PORT` or `[IPV6]:PORT`; empty if there is none."""
    return urlsplit(f"//{address}").hostname or ""


def is_same_host(one: str, other: str) -> bool:
    """Whether two addresses are the same, however they are written: `::1` and `0:0::1` are.

    The zone of a link-local address (`%eth0` in `fe80::1%eth0`) is ignored: each host names it itself.
    """
    return _canonical(one) == _canonical(other)


def _canonical(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:  # a name
        return host.lower()
