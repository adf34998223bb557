"""The network interface that carries the bytes between workers."""

from __future__ import annotations

from collections.abc import Collection

import psutil

from distsqz.addresses import is_same_host

LOOPBACK = "lo"


def interface_of(address: str) -> str | None:
    """The interface that holds an IPv4 or IPv6 address of this host; None if none does."""
    return next(
        (
            name
            for name, addresses in psutil.net_if_addrs().items()
            if any(is_same_host(each.address, address) for each in addresses)
        ),
        None,
    )


def metered_interface(own_address: str, all_addresses: Collection[str]) -> str | None:
    """The interface on which bytes are counted: that of this host's address, or loopback for a single host.

    The kernel sends packets from a host to itself over loopback, whatever their address.

    Args:
        own_address: address of this host.
        all_addresses: addresses of all workers.
    """
    return LOOPBACK if set(all_addresses) <= {own_address} else interface_of(own_address)
