"""Protocol between receiver and sender (docs/shipping.md).

A connection carries one request, one reply, and the bytes of the file from the requested offset. A file is
identified by its SHA-256, with which the receiver also verifies the content.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from distsqz.metering.tcp import Address

MAGIC = b"DSQS"
VERSION = 1
HERE, UNKNOWN, BEYOND = 0, 1, 2
"""Status in a reply: the bytes follow; the sender has no such file; the offset is beyond the end of the
file."""

REQUEST = struct.Struct("<4sB3x32sQ")
"""Magic, version, SHA-256 of the file, offset of the first requested byte."""
REPLY = struct.Struct("<4sB3xQ")
"""Magic, status, size of the whole file."""

SILENCE_S = 10
"""Seconds without a byte after which a connection counts as broken."""


class ProtocolError(Exception):
    """The other end does not speak this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLocation:
    """Location of a file: the sender that has it, its hash and its size."""

    address: Address
    """Address of the sender."""
    sha256: bytes
    size_bytes: int


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Receives exactly `size` bytes.

    Raises:
        ConnectionError: the connection ended before that.
    """
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionError(f"closed after {len(received)} of {size} bytes")
        received += piece
    return received


def read_request(connection: socket.socket) -> tuple[bytes, int]:
    """Reads a request: the SHA-256 of the file, and the offset of the first byte.

    Raises:
        ProtocolError: the bytes are not a request of this version.
    """
    magic, version, sha256, offset = REQUEST.unpack(receive_exactly(connection, REQUEST.size))
    if (magic, version) != (MAGIC, VERSION):
        raise ProtocolError("not a request of this protocol")
    return sha256, offset


def read_reply(connection: socket.socket) -> tuple[int, int]:
    """Reads a reply: the status, and the size of the file in bytes.

    Raises:
        ProtocolError: the bytes are not a reply.
    """
    magic, status, size = REPLY.unpack(receive_exactly(connection, REPLY.size))
    if magic != MAGIC:
        raise ProtocolError("not a reply of this protocol")
    return status, size
