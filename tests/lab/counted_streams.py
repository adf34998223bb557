"""What TCP's counters say of several streams: `receive STREAMS`, or `send HOST PORT STREAMS BYTES` elsewhere.

The sender prints a JSON object: by stream, the payload counted as soon as all was written and again once it
was acknowledged, and what TCP repeated; and the packets that the queue of eth0 dropped meanwhile.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from distsqz.metering.queue import QueueMeter
from distsqz.metering.tcp import Connection


def receive(streams: int) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        print(server.getsockname()[1], flush=True)
        accepted = [server.accept()[0] for _ in range(streams)]
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(_drain, accepted))


def _drain(connection: socket.socket) -> None:
    with connection:
        while connection.recv(1 << 18):
            pass


def send(host: str, port: int, streams: int, size: int) -> None:
    queue = QueueMeter("eth0")
    with ThreadPoolExecutor(streams) as pool:
        counted = list(pool.map(lambda _: _send(host, port, size), range(streams)))
    print(json.dumps({"streams": counted, "dropped_packets": queue.take_dropped_packets()}))


def _send(host: str, port: int, size: int) -> dict[str, int]:
    with socket.create_connection((host, port)) as sock:
        connection = Connection(sock.dup())
        before = connection.read()
        sock.sendall(bytes(size))
        written = connection.read().since(before)
        while connection.queued_bytes():
            time.sleep(0.01)
        acknowledged = connection.read().since(before)
        connection.close()
    return {
        "written_bytes": written.tx_bytes,
        "acknowledged_bytes": acknowledged.tx_bytes,
        "repeated_bytes": acknowledged.repeated_bytes,
    }


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "receive":
        receive(int(arguments[0]))
    else:
        send(arguments[0], *map(int, arguments[1:]))
