"""The interface that bytes are counted on."""

from __future__ import annotations

from distsqz.orchestration.network import interface_of, metered_interface


def test_an_address_is_found_on_the_interface_that_holds_it() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") is None


def test_workers_that_share_a_host_talk_over_loopback_whatever_its_address() -> None:
    assert metered_interface("198.51.100.4", {"198.51.100.4"}) == "lo"


def test_workers_on_several_hosts_talk_over_the_interface_of_their_own_address() -> None:
    assert metered_interface("127.0.0.1", {"127.0.0.1", "198.51.100.4"}) == "lo"
    assert metered_interface("198.51.100.4", {"198.51.100.4", "198.51.100.5"}) is None
