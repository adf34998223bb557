"""Environment of every process that trains, however Ray started it."""

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
"""Settings of glibc (mallopt(3)) that keep freed memory. Otherwise freed tensors return to the kernel and
cause page faults in the next step. With them AlexNet's step takes 15% less time (benchmarks/overhead)."""


def use_node_interface() -> None:
    """Makes torch's process groups use the interface that holds Ray's node address.

    By default Gloo resolves the host name, which often gives 127.0.0.1.

    Raises:
        RuntimeError: no interface has the address.
    """
    address = ray.util.get_node_ip_address()
    interface = interface_of(address)
    if interface is None:
        raise RuntimeError(
            f"no network interface of {socket.gethostname()} holds Ray's node address {address}"
        )
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # without "=" NCCL treats it as a prefix
