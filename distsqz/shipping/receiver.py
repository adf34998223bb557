"""Receives a file from a sender: resumes after a broken connection and verifies the hash."""

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
MAX_TRANSFERS = 3
"""Maximum number of transfers of a file whose hash does not agree."""
BUFFER_BYTES = 1 << 18


@dataclass(kw_only=True)
class ReceiveResult:
    """Measurements of a received file."""

    own_ends: list[Address] = field(default_factory=list)
    """Local addresses of the connections, in the order in which they were opened."""
    tcp_rx_bytes: int = 0
    """TCP payload that the kernel received on these connections, including the headers of the protocol."""
    resumed: int = 0
    """Number of times that the transfer resumed after a broken connection."""
    resent: int = 0
    """Number of times that the whole file was sent again because its hash did not agree."""


def receive(
    location: FileLocation, into: BinaryIO, patience_s: float = PATIENCE_S, silence_s: float = SILENCE_S
) -> ReceiveResult:
    """Receives a file and verifies its hash.

    Args:
        location: the sender and the file.
        into: an empty file, open for writing.
        patience_s: seconds without a received byte after which the transfer fails.
        silence_s: seconds without a received byte after which a connection counts as broken.

    Raises:
        RunError: the transfer failed; the message gives the reason.
    """
    transfer = _Transfer(location, into, silence_s)
    for _ in range(MAX_TRANSFERS):
        transfer.receive_rest(patience_s)
        if transfer.has_right_hash():
            return transfer.received
        transfer.restart()
    raise RunError(f"what arrived had the wrong content {MAX_TRANSFERS} times (SHA-256 does not agree)")


class _Transfer:
    """A transfer in progress."""

    def __init__(self, location: FileLocation, into: BinaryIO, silence_s: float) -> None:
        self.received = ReceiveResult()
        self._location = location
        self._into = into
        self._silence_s = silence_s
        self._have = 0
        self._digest = hashlib.sha256()
        self._last_byte_at = time.monotonic()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def has_right_hash(self) -> bool:
        return self._digest.digest() == self._location.sha256

    def restart(self) -> None:
        self._into.seek(0)
        self._into.truncate()
        self._have, self._digest = 0, hashlib.sha256()
        self.received.resent += 1

    def receive_rest(self, patience_s: float) -> None:
        self._last_byte_at = time.monotonic()
        while self._have < self._location.size_bytes:
            try:
                self._receive_over_one_connection()
            except OSError as error:
                if time.monotonic() - self._last_byte_at >= patience_s:
                    reason = error.strerror or str(error)
                    raise RunError(f"no byte came for {patience_s:g} s (last: {reason})") from error
                time.sleep(RETRY_S)

    def _receive_over_one_connection(self) -> None:
        """Receives over one connection, to the end of the file or until the connection breaks."""
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
