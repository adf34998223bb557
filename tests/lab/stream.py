"""One end of a TCP stream: `stream.py receive`, or `stream.py send HOST PORT SECONDS`.

The receiver says its port, then `begun`, and in the end when how many bytes came.
"""

from __future__ import annotations

import json
import socket
import sys
import time


def receive() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(20)
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    pieces = []
    buffer = bytearray(1 << 18)
    with connection:
        connection.settimeout(20)
        while count := connection.recv_into(buffer):
            if not pieces:
                print("begun", flush=True)
            pieces.append((time.monotonic(), count))
    print(json.dumps(pieces))


def send(host: str, port: int, seconds: float) -> None:
    with socket.create_connection((host, port), 20) as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(bytes(1 << 16))


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive()
    else:
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
