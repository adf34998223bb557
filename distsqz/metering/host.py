"""What the host counts: bytes through an interface, and how long a thread waited for a core."""

from __future__ import annotations

import os
from pathlib import Path

from distsqz.metering.clock import NS_PER_S


class CounterFile:
    """A small file of numbers in /proc or /sys, kept open because it is read twice a step."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            self._descriptor = None

    def read(self) -> list[int] | None:
        """Its numbers now; None where the file cannot be read."""
        if self._descriptor is None:
            return None
        try:
            return [int(word) for word in os.pread(self._descriptor, 256, 0).split()]
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Closes the file; further readings are None."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class InterfaceMeter:
    """Bytes that a network interface has carried, of every process on the host."""

    def __init__(self, interface: str) -> None:
        statistics = Path("/sys/class/net") / interface / "statistics"
        self._tx = CounterFile(statistics / "tx_bytes")
        self._rx = CounterFile(statistics / "rx_bytes")

    def read(self) -> tuple[int, int] | None:
        """(sent, received) since the interface came up; None where it cannot be read."""
        tx, rx = self._tx.read(), self._rx.read()
        return (tx[0], rx[0]) if tx and rx else None

    def close(self) -> None:
        """Closes the counters' files."""
        self._tx.close()
        self._rx.close()


class SchedulerMeter:
    """How long one thread of this process was ready to run and had no core.

    Source: Documentation/scheduler/sched-stats.rst of the kernel, "/proc/<pid>/schedstat", second number.
    """

    def __init__(self, native_thread_id: int) -> None:
        self._file = CounterFile(Path(f"/proc/self/task/{native_thread_id}/schedstat"))

    def read(self) -> float | None:
        """Seconds waited since the thread began; None where the kernel does not tell."""
        numbers = self._file.read()
        return numbers[1] / NS_PER_S if numbers and len(numbers) > 1 else None

    def close(self) -> None:
        """Closes the counter's file."""
        self._file.close()
