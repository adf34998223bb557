"""Emulated hosts and shaped links on one Linux machine.

A host is a process with its own network, PID, mount, UTS and IPC namespaces, and everything that runs in
them. Its link is a veth pair to a bridge, shaped in both directions by a token bucket (tbf). Bytes, sockets
and queues are those of the kernel; the rate is emulated, and no delay is added.
"""
