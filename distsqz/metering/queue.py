"""The queue of a host's network interface: packets that it dropped before they were on the wire.

TCP counts a segment that this queue drops as sent, and counts it again when it sends it anew. Only the queue
knows which of these attempts left the host.
"""

from __future__ import annotations

import contextlib
from typing import Any

ROOT = 0xFFFFFFFF
"""Parent of an interface's outermost queue (TC_H_ROOT in linux/pkt_sched.h)."""


class QueueMeter:
    """Packets dropped by the outermost queue of an interface, by every process on the host."""

    def __init__(self, interface: str) -> None:
        """Opens the interface's queue; where it cannot be read, every reading is None."""
        self._route: Any = None
        self._device: int | None = None
        with contextlib.suppress(ImportError, OSError):
            from pyroute2 import IPRoute  # Linux only

            self._route = IPRoute()
            found = self._route.link_lookup(ifname=interface)
            self._device = int(found[0]) if found else None
        self._dropped_packets = self._read()

    @property
    def available(self) -> bool:
        """Whether the queue can be read."""
        return self._dropped_packets is not None

    def take_dropped_packets(self) -> int | None:
        """Packets dropped since the last call, or since the meter was made; None where that is unknown."""
        before, self._dropped_packets = self._dropped_packets, self._read()
        if before is None or self._dropped_packets is None:
            return None
        return self._dropped_packets - before

    def close(self) -> None:
        """Closes the netlink socket; further readings are None."""
        if self._route:
            self._route.close()
        self._route = self._device = None

    def _read(self) -> int | None:
        if self._device is None:
            return None
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return sum(
                int(queue.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["drops"])
                for queue in self._route.get_qdiscs(self._device)
                if queue["parent"] == ROOT
            )  # 0 where there is no queue, as on loopback
        except (OSError, NetlinkError, AttributeError, TypeError):  # no such statistics in this kernel
            return None


def retransmitted_bytes(repeated_bytes: int, dropped_packets: int | None) -> int | None:
    """Payload that was on the wire more than once, out of what TCP handed to the queue repeatedly.

    None where the queue dropped packets meanwhile, or cannot be read: how many of the repeated bytes had left
    the host before is then unknown.

    Args:
        repeated_bytes: payload handed to the queue beyond what was written, as `TcpCounters` counts it.
        dropped_packets: packets that the queue dropped in the same time.
    """
    if repeated_bytes <= 0:
        return 0
    return repeated_bytes if dropped_packets == 0 else None
