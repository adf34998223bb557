"""Takes a file from a sender: goes on at the byte where a connection broke, and checks what has arrived."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from dataclasses import dataclass, field
from typing import BinaryIO

from distsqz.errors import RunError
from distsqz.metering.tcp import Address, Connection
from distsqz.shipping.protocol import (
    HERE,
    MAGIC,
    REQUEST,
    SILENCE_S,
    VERSION,
    FileLocation,
    ProtocolError,
    read_reply,
)

PATIENCE_S = 60.0
RETRY_S = 0.2
MOST_SENDINGS = 3
"""Of a file whose content does not come right."""
BUFFER_BYTES = 1 << 18


@dataclass(kw_only=True)
class ReceiveResult:
    """How a file came."""

    own_ends: list[Address] = field(default_factory=list)
    """Of its connections, in the order they were opened."""
    tcp_rx_bytes: int = 0
    """Payload that the kernel received on them, headers of the protocol included."""
    resumed: int = 0
    """How often it went on at the byte where a connection had broken."""
    resent: int = 0
    """How often it was sent again from its beginning because the hash did not agree."""


def receive(
    location: FileLocation, into: BinaryIO, patience_s: float = PATIENCE_S, silence_s: float = SILENCE_S
) -> ReceiveResult:
    """Takes a file, whole and checked.

    Args:
        location: which file of which sender.
        into: an empty file, open for writing.
        patience_s: without a byte for so long, it is given up.
        silence_s: without a byte for so long, a connection is taken to be broken.

    Raises:
        RunError: it could not be had, with the reason.
    """
    taking = _Taking(location, into, silence_s)
    for _ in range(MOST_SENDINGS):
        taking.take_all(patience_s)
        if taking.is_right():
            return taking.received
        taking.start_again()
    raise RunError(f"what arrived had the wrong content {MOST_SENDINGS} times (SHA-256 does not agree)")


class _Taking:
    """A file on its way."""

    def __init__(self, location: FileLocation, into: BinaryIO, silence_s: float) -> None:
        self.received = ReceiveResult()
        self._location = location
        self._into = into
        self._silence_s = silence_s
        self._have = 0
        self._digest = hashlib.sha256()
        self._last_byte_at = time.monotonic()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def is_right(self) -> bool:
        return self._digest.digest() == self._location.sha256

    def start_again(self) -> None:
        self._into.seek(0)
        self._into.truncate()
        self._have, self._digest = 0, hashlib.sha256()
        self.received.resent += 1

    def take_all(self, patience_s: float) -> None:
        self._last_byte_at = time.monotonic()
        while self._have < self._location.size_bytes:
            try:
                self._take_more()
            except OSError as error:
                if time.monotonic() - self._last_byte_at >= patience_s:
                    reason = error.strerror or str(error)
                    raise RunError(f"no byte came for {patience_s:g} s (last: {reason})") from error
                time.sleep(RETRY_S)

    def _take_more(self) -> None:
        """One connection: takes what comes, to the end or until it breaks."""
        with socket.create_connection(self._location.address, self._silence_s) as connection:
            counted = Connection(connection.dup())
            self.received.own_ends.append(counted.local)
            try:
                self._ask(connection)
                while self._have < self._location.size_bytes:
                    wanted = min(BUFFER_BYTES, self._location.size_bytes - self._have)
                    count = connection.recv_into(self._buffer, wanted)
                    if count == 0:
                        raise ConnectionError("the sender closed the connection")
                    self._keep(self._buffer[:count])
            finally:
                with contextlib.suppress(OSError):
                    self.received.tcp_rx_bytes += counted.read().rx_bytes
                counted.close()

    def _ask(self, connection: socket.socket) -> None:
        connection.sendall(REQUEST.pack(MAGIC, VERSION, self._location.sha256, self._have))
        try:
            status, size = read_reply(connection)
        except ProtocolError as error:
            raise RunError(f"no sender speaks at {self._location.address} ({error})") from error
        if status != HERE or size != self._location.size_bytes:
            raise RunError(f"the sender has no such file (status {status}, {size} bytes)")
        self.received.resumed += self._have > 0

    def _keep(self, piece: memoryview) -> None:
        try:
            self._into.write(piece)
        except OSError as error:
            raise RunError(f"cannot be written ({error.strerror})") from error
        self._digest.update(piece)
        self._have += len(piece)
        self._last_byte_at = time.monotonic()
