"""TCP as the kernel counts it: TCP_INFO of this process's own sockets, without root.

Every count of the bytes of a connection is read here. Payload is what the peer has acknowledged plus what
still waits in the socket (SIOCOUTQ). `tcpi_bytes_sent - tcpi_bytes_retrans` is not the payload: a segment
that the sender's own queue drops counts as sent, and again when it is sent anew.

Source: struct tcp_info in linux/tcp.h, whose fields only ever get appended, so that their offsets are fixed;
tcp_ioctl() in net/ipv4/tcp.c for SIOCOUTQ.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distsqz.runs.columns import column

TCP_INFO_SIZE = 256
SIOCOUTQ = 0x5411
_RTT_US = struct.Struct("@I")
_RTT_OFFSET = 68
_ACKED_AND_RECEIVED = struct.Struct("@QQ")
_ACKED_OFFSET = 120
_NOTSENT_BYTES = struct.Struct("@I")
_NOTSENT_OFFSET = 144
_SENT_BYTES = struct.Struct("@Q")
_SENT_OFFSET = 200
_QUEUED_BYTES = struct.Struct("@i")

DRAIN_POLL_S = 1e-3
MOST_READS = 100
"""How often a reading is repeated while acknowledgements come in between its two system calls."""

Address = tuple[str, int]
Ends = tuple[Address, Address]
"""The addresses of a connection's local and remote end. One end alone does not identify a connection: the
kernel gives the same port to several connections of a host whose remote ends differ."""
Exchange = Callable[[list[Ends]], Sequence[list[Ends]]]
"""An all-gather: takes this rank's list of ends, and returns every rank's by rank."""


@dataclass(frozen=True, slots=True)
class TcpCounters:
    """Bytes of a connection and its round-trip time; only the difference of two readings counts bytes."""

    tx_bytes: int
    """Payload written to the socket, each byte once: acknowledged, on its way or still queued. A step's bytes
    are thus the step's own, however slow the link is to take them."""
    rx_bytes: int
    """Payload that the kernel has received, each byte once."""
    repeated_bytes: int
    """Payload that TCP handed to the host's queue beyond `tx_bytes`. What was lost on the way counts, and
    what the queue itself dropped, which was never on the wire."""
    rtt_us: int

    def since(self, earlier: TcpCounters) -> TcpCounters:
        """Bytes that passed between an earlier reading and this one."""
        return TcpCounters(
            self.tx_bytes - earlier.tx_bytes,
            self.rx_bytes - earlier.rx_bytes,
            self.repeated_bytes - earlier.repeated_bytes,
            self.rtt_us,
        )


def total(readings: Iterable[TcpCounters]) -> TcpCounters:
    """Sums of the counters; the largest round-trip time."""
    every = list(readings)
    return TcpCounters(
        sum(one.tx_bytes for one in every),
        sum(one.rx_bytes for one in every),
        sum(one.repeated_bytes for one in every),
        max((one.rtt_us for one in every), default=0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpColumns:
    """TCP between this rank and its peers during a step."""

    tcp_tx_bytes: int = column(
        "Payload written to the sockets shared with ranks, or shards of a parameter server, on other hosts: "
        "each byte once, however often TCP sent it. In a session of one host everything counts.",
        unit="bytes",
        combine="mean",
        heading="tcp_tx_bytes",
    )
    tcp_rx_bytes: int = column(
        "Payload that the kernel received on the sockets shared with other hosts. A peer that is ahead may "
        "have sent some of its next step.",
        unit="bytes",
        combine="mean",
    )
    tcp_local_tx_bytes: int = column(
        "Payload written to the sockets shared with processes on the same host; 0 in a session of one host.",
        unit="bytes",
        combine="mean",
        heading="tcp_local_tx_bytes",
    )
    tcp_local_rx_bytes: int = column(
        "Payload received on the sockets shared with processes on the same host.", unit="bytes"
    )
    tcp_retrans_bytes: int | None = column(
        "Payload that was on the wire more than once. Null where the host's own queue dropped packets "
        "meanwhile, or cannot be read: TCP counts an attempt that never left the host in the same way.",
        unit="bytes",
        combine="mean",
    )
    queue_dropped_packets: int | None = column(
        "Packets that the queue of the host's interface dropped before they were on the wire, of every "
        "process on the host. Read where TCP had to repeat something, else 0.",
        unit="packets",
        combine="mean",
    )


class _Info(NamedTuple):
    """The fields of one TCP_INFO that are used here."""

    acked_bytes: int
    """One more than the payload once a SYN or a FIN of this end is acknowledged."""
    received_bytes: int
    notsent_bytes: int
    sent_bytes: int
    """Attempts, whether or not the host's queue took them."""
    rtt_us: int


class Connection:
    """One connected TCP socket of this process, held through a descriptor of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.local = _address(sock.getsockname())
        self.remote = _address(sock.getpeername())

    @property
    def ends(self) -> Ends:
        """Both ends, as this process sees them."""
        return self.local, self.remote

    @property
    def ends_of_peer(self) -> Ends:
        """Both ends, as the process at the remote end sees them."""
        return self.remote, self.local

    def read(self) -> TcpCounters:
        """The counters now.

        Written bytes are the sum of two that the kernel tells in two calls. What is acknowledged in between
        would be missed, so the reading is repeated until nothing was.
        """
        before = self._info()
        for _ in range(MOST_READS):
            queued_bytes = self.queued_bytes()
            info = self._info()
            if info[:-1] == before[:-1]:
                break
            before = info
        tx_bytes = info.acked_bytes + queued_bytes
        return TcpCounters(
            tx_bytes,
            info.received_bytes,
            max(0, info.sent_bytes - (tx_bytes - info.notsent_bytes)),  # SYN and FIN count as acknowledged
            info.rtt_us,
        )

    def _info(self) -> _Info:
        raw = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        acked, received = _ACKED_AND_RECEIVED.unpack_from(raw, _ACKED_OFFSET)
        return _Info(
            acked,
            received,
            _NOTSENT_BYTES.unpack_from(raw, _NOTSENT_OFFSET)[0],
            _SENT_BYTES.unpack_from(raw, _SENT_OFFSET)[0],
            _RTT_US.unpack_from(raw, _RTT_OFFSET)[0],
        )

    def queued_bytes(self) -> int:
        """Bytes in the socket that the peer has not acknowledged, sent or not."""
        raw = fcntl.ioctl(self._socket.fileno(), SIOCOUTQ, bytes(_QUEUED_BYTES.size))
        return int(_QUEUED_BYTES.unpack(raw)[0])

    def expect_life(self, silence_s: int) -> None:
        """Makes the kernel break the connection after `silence_s` seconds without an answer of the other
        host.
        """
        probes = 4
        for option, value in (
            (socket.TCP_KEEPIDLE, silence_s // (probes + 1)),
            (socket.TCP_KEEPINTVL, silence_s // (probes + 1)),
            (socket.TCP_KEEPCNT, probes),
            (socket.TCP_USER_TIMEOUT, silence_s * 1000),
        ):
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def cut(self) -> None:
        """Shuts the connection down at both ends, whoever owns it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def close(self) -> None:
        """Closes the descriptor; the connection stays open for its owner."""
        self._socket.close()


def own_connections() -> list[Connection]:
    """Every connected TCP socket of this process, once; empty where /proc or TCP_INFO cannot be had."""
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names, not paths
    except OSError:
        return []
    # By inode: the number of the listing's own descriptor, closed by now, may name one of our duplicates.
    by_inode: dict[int, Connection] = {}
    for descriptor in descriptors:
        try:
            inode = os.fstat(descriptor).st_ino
        except OSError:
            continue
        if inode not in by_inode and (connection := _connection(descriptor)) is not None:
            by_inode[inode] = connection
    return list(by_inode.values())


def _connection(descriptor: int) -> Connection | None:
    try:
        duplicate = os.dup(descriptor)
    except OSError:
        return None
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None
    try:
        if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
            connection = Connection(sock)
            connection.read()
            return connection
    except (OSError, struct.error):
        pass  # a listening or closing socket, or a kernel too old to count bytes
    sock.close()
    return None


def _address(name: tuple[str, int, *tuple[Any, ...]]) -> Address:
    """(host, port), the same for both ends where one of them sees IPv4 through an IPv6 socket."""
    return name[0].removeprefix("::ffff:"), name[1]


Peer = int | str
"""A rank, or the name of a shard."""


class PeerMeter:
    """The connections between this process and its peers."""

    def __init__(self, by_peer: Mapping[Peer, Sequence[Connection]], local: Collection[Peer] = ()) -> None:
        """Takes ownership of the connections.

        Args:
            by_peer: this process's connections to each peer; none without any.
            local: peers on this host, where what goes to them crosses no link.
        """
        self._by_peer = dict(by_peer)
        self._local = frozenset(local)

    @classmethod
    def of_ranks(cls, rank: int, exchange: Exchange, local: Collection[int] = ()) -> PeerMeter:
        """The connections between this rank and every other; all ranks call this together.

        A socket of this process belongs to a rank if that rank's process has a socket with the same two ends.

        Args:
            rank: this process's.
            exchange: an all-gather of ends over the ranks.
            local: other ranks on this host, where what goes to them crosses no link.
        """
        found = own_connections()
        ends_by_rank = exchange([connection.ends for connection in found])
        rank_of = {ends: peer for peer, every in enumerate(ends_by_rank) for ends in every if peer != rank}
        by_rank: dict[Peer, list[Connection]] = {}
        for connection in found:
            if connection.ends_of_peer in rank_of:
                by_rank.setdefault(rank_of[connection.ends_of_peer], []).append(connection)
            else:
                connection.close()
        return cls(by_rank, local)

    @property
    def available(self) -> bool:
        """Whether there is any connection to read."""
        return bool(self._by_peer)

    def is_local(self, peer: Peer) -> bool:
        """Whether a peer is on this host, so that what goes to it crosses no link."""
        return peer in self._local

    def address(self, peer: Peer) -> str:
        """Address at which a peer is reached."""
        return self._by_peer[peer][0].remote[0]

    def read(self) -> dict[Peer, TcpCounters]:
        """The counters now, by peer."""
        return {
            peer: total(connection.read() for connection in connections)
            for peer, connections in self._by_peer.items()
        }

    def drain(self, timeout_s: float) -> bool:
        """Waits until every peer has acknowledged all that was written; False if one has not in time."""
        give_up_at = time.monotonic() + timeout_s
        connections = [each for of_peer in self._by_peer.values() for each in of_peer]
        while any(connection.queued_bytes() for connection in connections):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(DRAIN_POLL_S)
        return True

    def close(self) -> None:
        """Closes every descriptor."""
        for connections in self._by_peer.values():
            for connection in connections:
                connection.close()
        self._by_peer.clear()
