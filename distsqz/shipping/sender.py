"""Serves files over TCP, requested by hash and offset, to any number of receivers at the same time."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import dataclass
from typing import BinaryIO

from distsqz.addresses import listen
from distsqz.metering.tcp import Address, Connection, TcpCounters
from distsqz.shipping.protocol import (
    BEYOND,
    HERE,
    MAGIC,
    REPLY,
    SILENCE_S,
    UNKNOWN,
    ProtocolError,
    read_request,
)

PIECE_BYTES = 1 << 20
BACKLOG = 512
CONGESTION_CONTROL = b"cubic"
"""Linux's default, set explicitly so that results do not depend on the machine's setting. On a slow link with
a short queue BBR retransmits three times as much before it has found the rate (benchmarks/deploy)."""


@dataclass(frozen=True, slots=True)
class _Offer:
    file: BinaryIO
    size_bytes: int


class Sender:
    """Serves each connection in a thread of its own; the kernel copies from file to socket (sendfile)."""

    def __init__(self, host: str, silence_s: int = SILENCE_S) -> None:
        """Starts to listen.

        Args:
            host: IPv4 or IPv6 address of this host that receivers connect to; the port is a free one.
            silence_s: seconds after which the connection to a receiver that does not answer is broken.
        """
        self._silence_s = silence_s
        self._offers: dict[bytes, _Offer] = {}
        self._changed = threading.Condition()
        self._live: dict[Address, tuple[socket.socket, Connection]] = {}
        self._ended: dict[Address, TcpCounters] = {}
        self._server = listen(host, backlog=BACKLOG)
        with contextlib.suppress(OSError):  # this kernel lacks it; run.json records what is used
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_CONTROL)
        self.address: Address = self._server.getsockname()[:2]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Sender:
        """Returns the sender, which is listening."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the sender."""
        self.close()

    def offer(self, sha256: bytes, file: BinaryIO, size_bytes: int) -> None:
        """Makes a file available under its hash; the caller closes it after this sender."""
        self._offers[sha256] = _Offer(file, size_bytes)

    @property
    def congestion_control(self) -> str:
        """Congestion control of every connection (connections inherit it from the listening socket)."""
        name = self._server.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return name.rstrip(b"\0").decode()

    def tx_bytes(self) -> int:
        """TCP payload sent on all connections so far, in bytes."""
        with self._changed:
            live = [counted.read().tx_bytes for _, counted in self._live.values()]
            return sum(live) + sum(ended.tx_bytes for ended in self._ended.values())

    def repeated_bytes(self, receivers: list[Address], timeout_s: float = 1.0) -> int | None:
        """TCP payload sent again to these receivers, in bytes; None if a connection does not end in time."""
        with self._changed:
            known = self._changed.wait_for(lambda: self._ended.keys() >= set(receivers), timeout_s)
            return sum(self._ended[end].repeated_bytes for end in receivers) if known else None

    def close(self) -> None:
        """Breaks all connections, and returns when all threads have ended."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._accepting.join()
        self._server.close()
        with self._changed:
            for connection, _ in self._live.values():
                with contextlib.suppress(OSError):  # it is already broken
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except ConnectionAbortedError:  # aborted by the receiver
                continue
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                counted = Connection(connection.dup())
            except OSError:  # the receiver is already gone
                return
            with self._changed:
                self._live[counted.remote] = connection, counted
            # A broken connection breaks at the receiver too, which then reconnects.
            with contextlib.suppress(OSError, ProtocolError):
                counted.expect_life(self._silence_s)
                self._answer(connection)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # the receiver closes when it has everything
            with self._changed:
                self._ended[counted.remote] = counted.read()
                del self._live[counted.remote]
                counted.close()
                self._changed.notify_all()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(self._silence_s)
        sha256, offset = read_request(connection)
        connection.settimeout(None)  # sendfile takes no timeout; expect_life breaks dead connections
        offer = self._offers.get(sha256)
        if offer is None:
            connection.sendall(REPLY.pack(MAGIC, UNKNOWN, 0))
        elif offset > offer.size_bytes:
            connection.sendall(REPLY.pack(MAGIC, BEYOND, offer.size_bytes))
        else:
            connection.sendall(REPLY.pack(MAGIC, HERE, offer.size_bytes))
            while offset < offer.size_bytes:
                count = min(PIECE_BYTES, offer.size_bytes - offset)
                sent = os.sendfile(connection.fileno(), offer.file.fileno(), offset, count)
                if sent == 0:  # the file has become shorter
                    return
                offset += sent
