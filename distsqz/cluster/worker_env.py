"""The surroundings that every process which trains needs, however Ray started it."""

from __future__ import annotations

import os
import socket

import ray

from distsqz.cluster.interfaces import interface_of

KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""For glibc (mallopt(3)): else tensors that are freed go back to the kernel, to be faulted in again in the
next step. AlexNet's step takes 15% less with these, under Ray or not (benchmarks/overhead)."""


def use_node_interface() -> None:
    """Lets torch's process groups use the interface that holds Ray's own node address.

    Left to itself Gloo asks the host name, which often leads to 127.0.0.1 and no further.

    Raises:
        RuntimeError: no interface holds it.
    """
    address = ray.util.get_node_ip_address()
    interface = interface_of(address)
    if interface is None:
        raise RuntimeError(
            f"no network interface of {socket.gethostname()} holds Ray's node address {address}"
        )
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # without the sign NCCL takes it for a prefix
