"""Addresses of hosts, in either protocol."""

from __future__ import annotations

import socket

import pytest

from distsqz.addresses import host_of, is_same_host, listen
from tests.ipv6 import LOOPBACK


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_socket_listens_where_its_address_leads(host: str) -> None:
    with listen(host) as server, socket.create_connection(server.getsockname()[:2]) as client:
        assert client.getpeername()[0] == host


def test_an_address_of_another_host_cannot_be_listened_on() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        listen("192.0.2.77")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("h1:6379", "h1"),
        ("10.0.0.1:6379", "10.0.0.1"),
        ("[::1]:6379", "::1"),
        ("[fe80::1%eth0]:6379", "fe80::1%eth0"),
        ("", ""),
    ],
)
def test_the_host_is_taken_out_of_an_address_with_a_port(address: str, host: str) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("fd00::A", "fd00:0::a", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("fe80::1%eth0", "fe80::1%ens3", True),
        ("::1", "::2", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("Head", "head", True),
        ("head", "10.0.0.1", False),
    ],
)
def test_addresses_are_compared_however_they_are_written(one: str, other: str, same: bool) -> None:
    assert is_same_host(one, other) is same
