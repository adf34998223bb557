"""Which network interface the bytes between workers go through."""

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
    """The interface to count bytes on: this host's address', or loopback when every worker is on this host.

    The kernel carries what a host sends to itself over loopback, whatever address it is sent to.
    """
    return LOOPBACK if set(all_addresses) <= {own_address} else interface_of(own_address)
