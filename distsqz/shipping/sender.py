"""Serves files over TCP to whoever asks for them by their hash: all at once, from any byte on."""

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
"""Linux's own default, so that figures do not hang on the machine's. BBR sends three times as much in vain
before it knows the rate of a slow link with a short queue (benchmarks/deploy)."""


@dataclass(frozen=True, slots=True)
class _Offer:
    file: BinaryIO
    size_bytes: int


class Sender:
    """A thread a connection; the kernel copies from file to socket (sendfile)."""

    def __init__(self, host: str, silence_s: int = SILENCE_S) -> None:
        """Begins to listen.

        Args:
            host: IPv4 or IPv6 address of this host that receivers connect to; the port is a free one.
            silence_s: after which a receiver that no longer answers is given up.
        """
        self._silence_s = silence_s
        self._offers: dict[bytes, _Offer] = {}
        self._changed = threading.Condition()
        self._live: dict[Address, tuple[socket.socket, Connection]] = {}
        self._ended: dict[Address, TcpCounters] = {}
        self._server = listen(host, backlog=BACKLOG)
        with contextlib.suppress(OSError):  # not in this kernel; what is used is told
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_CONTROL)
        self.address: Address = self._server.getsockname()[:2]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Sender:
        """It listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.close()

    def offer(self, sha256: bytes, file: BinaryIO, size_bytes: int) -> None:
        """Lets a file be asked for; it stays the caller's, to be closed after this sender."""
        self._offers[sha256] = _Offer(file, size_bytes)

    @property
    def congestion_control(self) -> str:
        """Of every connection, which inherits it."""
        name = self._server.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return name.rstrip(b"\0").decode()

    def tx_bytes(self) -> int:
        """TCP payload that all connections so far were sent."""
        with self._changed:
            live = [counted.read().tx_bytes for _, counted in self._live.values()]
            return sum(live) + sum(ended.tx_bytes for ended in self._ended.values())

    def repeated_bytes(self, receivers: list[Address], timeout_s: float = 1.0) -> int | None:
        """Payload that TCP repeated on the connections of these ends; None if one has not ended in time."""
        with self._changed:
            known = self._changed.wait_for(lambda: self._ended.keys() >= set(receivers), timeout_s)
            return sum(self._ended[end].repeated_bytes for end in receivers) if known else None

    def close(self) -> None:
        """Breaks every connection and returns when nothing runs any more."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._accepting.join()
        self._server.close()
        with self._changed:
            for connection, _ in self._live.values():
                with contextlib.suppress(OSError):  # it is broken already
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except ConnectionAbortedError:  # by its other end
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
            except OSError:  # it has gone already
                return
            with self._changed:
                self._live[counted.remote] = connection, counted
            # What breaks here breaks at the receiver too, who comes again.
            with contextlib.suppress(OSError, ProtocolError):
                counted.expect_life(self._silence_s)
                self._answer(connection)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # it closes when all has arrived
            with self._changed:
                self._ended[counted.remote] = counted.read()
                del self._live[counted.remote]
                counted.close()
                self._changed.notify_all()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(self._silence_s)
        sha256, offset = read_request(connection)
        connection.settimeout(None)  # sendfile takes no timeout; expect_life breaks what is dead
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
