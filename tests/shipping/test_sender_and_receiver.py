"""Sender and receiver over real TCP, with a relay between them that breaks what passes it."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import pytest

from distsqz.errors import RunError
from distsqz.metering.tcp import Address
from distsqz.shipping.protocol import MAGIC, REPLY, REQUEST, VERSION, FileLocation
from distsqz.shipping.receiver import receive
from distsqz.shipping.sender import Sender
from tests.ipv6 import LOOPBACK

SIZE = 3_000_000
CONTENT = os.urandom(SIZE)
SHA256 = hashlib.sha256(CONTENT).digest()

Spoil = Callable[[int, bytes, int], bytes | None]
"""Of a connection's number, a piece and where in the answer it begins: what to pass on; None to break."""


@pytest.fixture
def sender() -> Iterator[Sender]:
    with sender_at("127.0.0.1") as sender:
        yield sender


@contextmanager
def sender_at(host: str) -> Iterator[Sender]:
    with tempfile.TemporaryFile() as file, Sender(host) as sender:
        file.write(CONTENT)
        file.flush()
        sender.offer(SHA256, file, SIZE)
        yield sender


@dataclass
class Relay:
    """Stands between a receiver and a sender."""

    target: Address
    spoil: Spoil
    address: Address = ("", 0)
    offsets: list[int] = field(default_factory=list)
    """That were asked for, by connection."""
    carried: list[int] = field(default_factory=list)
    """Bytes of answers passed on, by connection."""

    def run(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            with near, socket.create_connection(self.target) as far:
                request = near.recv(REQUEST.size, socket.MSG_WAITALL)
                self.offsets.append(REQUEST.unpack(request)[3])
                self.carried.append(0)
                far.sendall(request)
                self._pass_on(far, near)

    def _pass_on(self, far: socket.socket, near: socket.socket) -> None:
        number = len(self.carried) - 1
        try:
            while piece := far.recv(10_000):
                passed = self.spoil(number, piece, self.carried[number])
                if passed is None:
                    return
                near.sendall(passed)
                self.carried[number] += len(passed)
        except OSError:
            return


@contextmanager
def relayed(sender: Sender, spoil: Spoil) -> Iterator[Relay]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(sender.address, spoil, server.getsockname()[:2])
        thread = threading.Thread(target=relay.run, args=(server,), daemon=True)
        thread.start()
        yield relay
        server.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    assert not thread.is_alive()


def location(address: Address, sha256: bytes = SHA256) -> FileLocation:
    return FileLocation(address=address, sha256=sha256, size_bytes=SIZE)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_file_arrives_whole_and_tcp_carries_little_besides(host: str) -> None:
    into = io.BytesIO()
    with sender_at(host) as sender:
        received = receive(location(sender.address), into)
        assert sender.repeated_bytes(received.own_ends, timeout_s=20) is not None
        sent = sender.tx_bytes()
    assert into.getvalue() == CONTENT
    assert (received.resumed, received.resent) == (0, 0)
    for counted in (received.tcp_rx_bytes, sent):
        assert SIZE + REPLY.size <= counted <= SIZE + REPLY.size + 1  # the kernel counts the end as a byte


def test_many_receivers_are_served_at_once(sender: Sender) -> None:
    meeting = threading.Barrier(8)
    found: list[bytes] = []

    def take() -> None:
        into = io.BytesIO()
        meeting.wait()
        receive(location(sender.address), into)
        found.append(into.getvalue())

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    # One who asks and takes nothing holds nobody up.
    with socket.create_connection(sender.address) as idle:
        idle.sendall(REQUEST.pack(MAGIC, VERSION, SHA256, 0))
        for thread in threads:
            thread.join(60)
    assert found == [CONTENT] * 8


def test_after_a_break_only_the_rest_is_sent(sender: Sender) -> None:
    breaks_at = {0: 1_000_000, 1: 500_000}

    def spoil(number: int, piece: bytes, begin: int) -> bytes | None:
        return None if begin >= breaks_at.get(number, SIZE * 2) else piece

    into = io.BytesIO()
    with relayed(sender, spoil) as relay:
        received = receive(location(relay.address), into)
    assert into.getvalue() == CONTENT
    assert (received.resumed, received.resent) == (2, 0)
    # Each asks for the byte after the last that came, and no byte of the file came twice.
    came = [carried - REPLY.size for carried in relay.carried]
    assert relay.offsets == [0, came[0], came[0] + came[1]]
    assert sum(came) == SIZE


def test_a_byte_that_came_wrong_is_found_and_the_file_sent_again(sender: Sender) -> None:
    def spoil(number: int, piece: bytes, begin: int) -> bytes:
        if number == 0 and begin >= 2_000_000 > begin - len(piece):
            return bytes([piece[0] ^ 1]) + piece[1:]
        return piece

    into = io.BytesIO()
    with relayed(sender, spoil) as relay:
        received = receive(location(relay.address), into)
    assert into.getvalue() == CONTENT
    assert (received.resumed, received.resent) == (0, 1)
    assert relay.offsets == [0, 0]


def test_a_file_that_never_comes_right_is_given_up(sender: Sender) -> None:
    def spoil(_number: int, piece: bytes, begin: int) -> bytes:
        return piece[:-1] + bytes([piece[-1] ^ 1]) if begin > REPLY.size else piece

    with relayed(sender, spoil) as relay, pytest.raises(RunError, match="wrong content 3 times"):
        receive(location(relay.address), io.BytesIO())
    assert relay.offsets == [0, 0, 0]


def test_a_connection_that_falls_silent_is_replaced(sender: Sender) -> None:
    def spoil(number: int, piece: bytes, begin: int) -> bytes:
        if number == 0 and begin > 100_000:
            time.sleep(1)
        return piece

    into = io.BytesIO()
    with relayed(sender, spoil) as relay:
        received = receive(location(relay.address), into, silence_s=0.3)
    assert into.getvalue() == CONTENT
    assert received.resumed >= 1  # a busy machine may fall silent once more
    assert relay.offsets[1] > 0


def test_where_no_byte_comes_the_receiver_says_so_when_its_patience_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begin = time.monotonic()
        with pytest.raises(RunError, match=r"no byte came for 0\.5 s"):
            receive(location(deaf.getsockname()[:2]), io.BytesIO(), patience_s=0.5, silence_s=0.2)
        assert time.monotonic() - begin >= 0.5


def test_a_file_that_the_sender_has_not_is_told_at_once(sender: Sender) -> None:
    with pytest.raises(RunError, match="no such file"):
        receive(location(sender.address, bytes(32)), io.BytesIO())


def test_what_is_no_sender_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(REQUEST.size)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RunError, match="no sender speaks"):
            receive(location(server.getsockname()[:2]), io.BytesIO())
        thread.join()


def test_a_sender_that_meets_nonsense_goes_on_serving(sender: Sender) -> None:
    with socket.create_connection(sender.address) as nonsense:
        nonsense.sendall(b"x" * REQUEST.size)
        assert nonsense.recv(1) == b""
    into = io.BytesIO()
    receive(location(sender.address), into)
    assert into.getvalue() == CONTENT


def test_closing_a_sender_breaks_what_is_under_way() -> None:
    file: BinaryIO
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 30)
        silence_s = 120
        sender = Sender("127.0.0.1", silence_s)
        sender.offer(SHA256, file, 1 << 30)
        with socket.create_connection(sender.address) as stuck:
            stuck.sendall(REQUEST.pack(MAGIC, VERSION, SHA256, 0))
            stuck.recv(REPLY.size, socket.MSG_WAITALL)
            begin = time.monotonic()
            sender.close()
            assert time.monotonic() - begin < silence_s / 2  # it did not wait for the receiver


def test_a_disk_that_is_full_is_told(sender: Sender) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(RunError, match="cannot be written"):  # noqa: PTH123
        receive(location(sender.address), full)
