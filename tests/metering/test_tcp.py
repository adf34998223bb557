"""TCP counters against bytes that were really sent over loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from distsqz.addresses import listen
from distsqz.metering.tcp import Ends, PeerMeter, own_connections, total
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
    peer_ends: Ends = mine.getpeername()[:2], mine.getsockname()[:2]
    return PeerMeter.of_ranks(0, exchange=lambda own: [own, [peer_ends]])


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
    strange: Ends = ("192.0.2.1", 1), client.getsockname()[:2]
    meter = PeerMeter.of_ranks(0, exchange=lambda own: [own, [strange]])
    assert client.fileno() >= 0
    assert not meter.available
    assert meter.read() == {}


def test_connections_of_one_port_to_several_ranks_are_told_apart() -> None:
    """The kernel gives a port to several connections whose other ends differ, and to several processes."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(listen("127.0.0.1")) for _ in range(2)]
        clients = [stack.enter_context(socket.socket()) for _ in servers]
        port = 0
        for client, server in zip(clients, servers, strict=True):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("127.0.0.1", port))
            client.connect(server.getsockname()[:2])
            port = client.getsockname()[1]
        accepted = [stack.enter_context(server.accept()[0]) for server in servers]
        assert len({client.getsockname() for client in clients}) == 1
        # As rank 0 of three, of which ranks 1 and 2 accepted one connection each.
        of_peers: list[list[Ends]] = [[(sock.getsockname(), sock.getpeername())] for sock in accepted]
        meter = PeerMeter.of_ranks(0, exchange=lambda own: [own, *of_peers])
        before = meter.read()
        clients[0].sendall(b"x" * 1000)
        clients[1].sendall(b"y" * 7)
        passed = {peer: after.since(before[peer]).tx_bytes for peer, after in meter.read().items()}
        assert passed == {1: 1000, 2: 7}
        # As a rank that accepted both: each is of the process that has its other end.
        of_peers = [[(sock.getsockname(), sock.getpeername())] for sock in clients]
        accepting = PeerMeter.of_ranks(0, exchange=lambda own: [own, *of_peers])
        assert [accepting.read()[peer].rx_bytes for peer in (1, 2)] == [1000, 7]
        meter.close()
        accepting.close()


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
