"""What receiver and sender say to each other on a connection; written down in docs/shipping.md.

A connection carries one request, one reply and the file's bytes from the offset that was asked for. A file is
named by its SHA-256, so the name is all that a receiver needs to know that it has the right one.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from distsqz.metering.tcp import Address

MAGIC = b"DSQS"
VERSION = 1
HERE, UNKNOWN, BEYOND = 0, 1, 2
"""What a sender replies: the bytes follow; it has no such file; the offset lies beyond the file's end."""

REQUEST = struct.Struct("<4sB3x32sQ")
"""Magic, version, SHA-256 of the file, offset of the first byte wanted."""
REPLY = struct.Struct("<4sB3xQ")
"""Magic, status, size of the whole file."""

SILENCE_S = 10
"""Without a byte for so long, a connection is taken to be broken."""


class ProtocolError(Exception):
    """The other end speaks something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLocation:
    """A file that a sender has."""

    address: Address
    """Of the sender."""
    sha256: bytes
    size_bytes: int


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes.

    Raises:
        ConnectionError: the connection ended before.
    """
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionError(f"closed after {len(received)} of {size} bytes")
        received += piece
    return received


def read_request(connection: socket.socket) -> tuple[bytes, int]:
    """SHA-256 and offset of what a receiver asks for.

    Raises:
        ProtocolError: it is no receiver of this version.
    """
    magic, version, sha256, offset = REQUEST.unpack(receive_exactly(connection, REQUEST.size))
    if (magic, version) != (MAGIC, VERSION):
        raise ProtocolError("not a request of this protocol")
    return sha256, offset


def read_reply(connection: socket.socket) -> tuple[int, int]:
    """Status and the file's size.

    Raises:
        ProtocolError: it is no sender.
    """
    magic, status, size = REPLY.unpack(receive_exactly(connection, REPLY.size))
    if magic != MAGIC:
        raise ProtocolError("not a reply of this protocol")
    return status, size
