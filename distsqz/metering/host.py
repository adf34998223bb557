"""Counters of the host: bytes through an interface, and time for which a thread waited for a core."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from distsqz.metering.clock import NS_PER_S
from distsqz.metering.instrument import Place
from distsqz.runs.columns import column


class CounterFile:
    """A small file of numbers in /proc or /sys, kept open because it is read twice a step."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            self._descriptor = None

    def read(self) -> list[int] | None:
        """Returns the numbers in the file; None if it cannot be read."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceColumns:
    """Bytes through a host's network interface during a step."""

    nic_tx_bytes: int = column(
        "Bytes that the network interface sent, of every process on the host: ranks that share a host share "
        "this figure.",
        unit="bytes",
        combine="mean",
        heading="interface_tx_bytes",
    )
    nic_rx_bytes: int = column(
        "Bytes that the network interface received, of every process on the host.", unit="bytes"
    )


class InterfaceMeter:
    """Bytes that a network interface has carried, of every process on the host."""

    columns: ClassVar[type[Any]] = InterfaceColumns
    counts_traffic: ClassVar[bool] = True

    @classmethod
    def open(cls, place: Place) -> Self | None:
        """Opens the meter of the interface between ranks; None if the interface is unknown."""
        return cls(place.interface) if place.interface else None

    def __init__(self, interface: str) -> None:
        statistics = Path("/sys/class/net") / interface / "statistics"
        self._tx = CounterFile(statistics / "tx_bytes")
        self._rx = CounterFile(statistics / "rx_bytes")

    def read(self) -> tuple[int, int] | None:
        """(sent, received) since the interface came up; None where it cannot be read."""
        tx, rx = self._tx.read(), self._rx.read()
        return (tx[0], rx[0]) if tx and rx else None

    def between(self, before: tuple[int, int], after: tuple[int, int]) -> InterfaceColumns:
        """Bytes that passed between two readings."""
        return InterfaceColumns(nic_tx_bytes=after[0] - before[0], nic_rx_bytes=after[1] - before[1])

    def close(self) -> None:
        """Closes the counters' files."""
        self._tx.close()
        self._rx.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerColumns:
    """Time for which the training thread waited for a core during a step."""

    sched_wait_s: float = column(
        "Time that the training thread was ready to run and had no core.", unit="seconds"
    )


class SchedulerMeter:
    """Reads the time for which one thread of this process was ready to run and had no core.

    Source: Documentation/scheduler/sched-stats.rst of the kernel, "/proc/<pid>/schedstat", second number.
    """

    columns: ClassVar[type[Any]] = SchedulerColumns
    counts_traffic: ClassVar[bool] = False

    @classmethod
    def open(cls, place: Place) -> Self:
        """Opens the meter of the training thread."""
        return cls(place.native_thread_id)

    def __init__(self, native_thread_id: int) -> None:
        self._file = CounterFile(Path(f"/proc/self/task/{native_thread_id}/schedstat"))

    def read(self) -> float | None:
        """Seconds waited since the thread started; None if the kernel does not count them."""
        numbers = self._file.read()
        return numbers[1] / NS_PER_S if numbers and len(numbers) > 1 else None

    def between(self, before: float, after: float) -> SchedulerColumns:
        """Time waited between two readings."""
        return SchedulerColumns(sched_wait_s=after - before)

    def close(self) -> None:
        """Closes the counter's file."""
        self._file.close()
