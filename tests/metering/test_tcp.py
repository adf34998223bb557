"""TCP counters against bytes that were really sent over loopback."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from distsqz.addresses import listen
from distsqz.metering.tcp import Address, PeerMeter, own_connections, total
from tests.ipv6 import LOOPBACK, needs_ipv6


@pytest.fixture(params=LOOPBACK)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    with listen(request.param) as server:
        client = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
        with client, accepted:
            yield client, accepted


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def meter_of(mine: socket.socket) -> PeerMeter:
    """A meter of rank 0, told that rank 1 holds the other end of `mine`."""
    peer_end: Address = mine.getpeername()[:2]
    return PeerMeter.of_ranks(0, exchange=lambda own: [own, [peer_end]])


def receive(sock: socket.socket, size: int) -> None:
    while size:
        size -= len(sock.recv(min(size, 1 << 20)))


def test_counts_every_byte_sent_and_received(pair: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = pair
    meter = meter_of(client)
    before = meter.read()[1]
    reader = threading.Thread(target=receive, args=(accepted, 5_000_000))
    reader.start()
    client.sendall(b"x" * 5_000_000)
    accepted.sendall(b"y" * 123_456)
    receive(client, 123_456)
    reader.join()
    passed = meter.read()[1].since(before)
    assert passed.tx_bytes == 5_000_000
    assert passed.rx_bytes == 123_456
    assert passed.repeated_bytes >= 0  # a busy machine repeats some even on loopback; they are not in tx
    assert passed.rtt_us > 0
    meter.close()


def test_bytes_that_the_kernel_still_holds_count_as_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = pair
    meter = meter_of(client)
    before = meter.read()[1]
    client.setblocking(False)
    written = 0
    try:
        while True:  # nobody reads: the receiver's window fills up, then the sender's buffer
            written += client.send(b"x" * 65_536)
    except BlockingIOError:
        pass
    assert meter.read()[1].since(before).tx_bytes == written
    accepted.close()
    meter.close()


def test_a_socket_to_somebody_else_is_left_out(pair: tuple[socket.socket, socket.socket]) -> None:
    client, _ = pair
    meter = PeerMeter.of_ranks(0, exchange=lambda own: [own, [("192.0.2.1", 1)]])
    assert client.fileno() >= 0
    assert not meter.available
    assert meter.read() == {}


@needs_ipv6
def test_ends_meet_through_ipv4_in_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        server.listen()
        with socket.create_connection(("127.0.0.1", server.getsockname()[1])) as client:
            accepted, _ = server.accept()
            with accepted:
                ends = {(connection.local, connection.remote) for connection in own_connections()}
                here, there = client.getsockname()[:2], client.getpeername()[:2]
                assert (here, there) in ends
                assert (there, here) in ends


def test_close_gives_every_descriptor_back(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    meter = meter_of(pair[0])
    assert descriptors() == before + 1
    meter.close()
    assert descriptors() == before


def test_no_connections_add_up_to_nothing() -> None:
    assert total([]).tx_bytes == 0
