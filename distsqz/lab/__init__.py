"""Emulated hosts and shaped links on one Linux machine.

A host is a process with a network, PID, mount, UTS and IPC namespace of its own, and all that runs in it;
its link is a veth pair to a bridge, shaped both ways by a token bucket (tbf). Bytes, sockets and queues are
the kernel's own; the rate is emulated, and no delay is added.
"""
