"""Goodput of a TCP stream and round-trip time of each path between hosts, measured before training begins.

The rate that a link is said to have is not what TCP gets out of it; what training achieves is held against
what TCP does.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from distsqz.addresses import listen
from distsqz.errors import RunError
from distsqz.metering.schema import LinkRecord

CHUNK = 1 << 20
RAMP_S = 0.5
"""Seconds at the start of a stream that its goodput leaves out, in which TCP finds the rate."""
PINGS = 20
TIMEOUT_S = 20.0

Exchange = Callable[[Any], Sequence[Any]]
"""Gives what every rank handed in, by rank (an all-gather); ranks meet there."""


def measure_ring(
    rank: int, hosts: Sequence[str], address: str, stream_s: float, exchange: Exchange
) -> list[LinkRecord]:
    """Measures the path from each host to the next, around the ring, one after the other.

    Every host thus sends once and receives once, alone: each link is measured both ways. All ranks call this
    together; the first rank of each host takes part for it.

    Args:
        rank: of the caller.
        hosts: host names by rank.
        address: the caller's own, to be reached at.
        stream_s: how long each stream lasts, in seconds.
        exchange: an all-gather over the ranks.

    Returns:
        The record of the path that ends here; none on a rank that is not its host's first.
    """
    ring = [hosts.index(host) for host in dict.fromkeys(hosts)]
    if len(ring) == 1:
        return []
    records = []
    with listen(address) as server:
        server.settimeout(TIMEOUT_S)
        addresses = exchange((address, server.getsockname()[1]))
        for sender, receiver in zip(ring, [*ring[1:], ring[0]], strict=True):
            try:
                if rank == sender:
                    _send(addresses[receiver], stream_s)
                elif rank == receiver:
                    goodput, rtt_us = _receive(server, stream_s)
            except OSError as error:
                raise RunError(
                    f"the path from {hosts[sender]} to {hosts[receiver]} carries no stream ({error})",
                    host=hosts[rank],
                    rank=rank,
                ) from error
            if rank == receiver:
                records.append(
                    LinkRecord(
                        rank=sender,
                        host=hosts[sender],
                        peer_rank=receiver,
                        peer_host=hosts[receiver],
                        goodput_bytes_per_s=goodput,
                        rtt_us=rtt_us,
                    )
                )
            exchange(None)
    return records


def _send(address: tuple[str, int], stream_s: float) -> None:
    chunk = memoryview(bytes(CHUNK))
    with socket.create_connection(address, TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(PINGS):
            connection.sendall(connection.recv(1))
        end = time.monotonic() + RAMP_S + stream_s
        while time.monotonic() < end:
            connection.sendall(chunk)


def _receive(server: socket.socket, stream_s: float) -> tuple[float, int]:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        round_trips_s = [_ping(connection) for _ in range(PINGS)]
        buffer = bytearray(CHUNK)
        start = time.monotonic()
        received, first, last = 0, start, start
        while count := connection.recv_into(buffer):
            now = time.monotonic()
            if now - start < RAMP_S:
                first = now
            elif now - start < RAMP_S + stream_s:
                received, last = received + count, now
    if last == first:
        raise ConnectionError("it ended before its rate could be told")
    return received / (last - first), round(statistics.median(round_trips_s) * 1e6)


def _ping(connection: socket.socket) -> float:
    start = time.perf_counter()
    connection.sendall(b"p")
    connection.recv(1)
    return time.perf_counter() - start
