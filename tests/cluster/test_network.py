"""The interface that bytes are counted on."""

from __future__ import annotations

import socket

import psutil
import pytest
from psutil._ntuples import snicaddr

from distsqz.cluster.interfaces import interface_of, metered_interface
from tests.ipv6 import needs_ipv6


def test_an_address_is_found_on_the_interface_that_holds_it() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") is None


@needs_ipv6
@pytest.mark.parametrize("address", ["::1", "0:0:0:0:0:0:0:1"])
def test_an_ipv6_address_is_found_however_it_is_written(address: str) -> None:
    assert interface_of(address) == "lo"
    assert interface_of("2001:db8::77") is None


def test_a_link_local_address_is_found_without_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    held = snicaddr(socket.AF_INET6, "fe80::1%eth0", None, None, None)
    hardware = snicaddr(psutil.AF_LINK, "02:fc:00:00:00:01", None, None, None)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [hardware, held]})
    assert interface_of("fe80::1") == "eth0"


def test_workers_that_share_a_host_talk_over_loopback_whatever_its_address() -> None:
    assert metered_interface("198.51.100.4", {"198.51.100.4"}) == "lo"


def test_workers_on_several_hosts_talk_over_the_interface_of_their_own_address() -> None:
    assert metered_interface("127.0.0.1", {"127.0.0.1", "198.51.100.4"}) == "lo"
    assert metered_interface("198.51.100.4", {"198.51.100.4", "198.51.100.5"}) is None
