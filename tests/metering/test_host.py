"""What the host counts, against what was done to it."""

from __future__ import annotations

import os
import socket
import threading
import time

from distsqz.metering.host import InterfaceMeter, SchedulerMeter


def test_loopback_carries_what_is_sent_over_it() -> None:
    meter = InterfaceMeter("lo")
    before = meter.read()
    assert before is not None
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        for _ in range(100):
            sender.sendto(b"x" * 1000, receiver.getsockname())
    after = meter.read()
    assert after is not None
    assert after[0] - before[0] >= 100 * 1028  # the payload with its UDP and IP headers
    assert after[1] - before[1] >= 100 * 1028
    meter.close()
    assert meter.read() is None


def test_an_interface_that_is_not_there_reads_as_unknown() -> None:
    assert InterfaceMeter("nowhere0").read() is None


def test_a_crowded_core_makes_a_thread_wait() -> None:
    core = min(os.sched_getaffinity(0))
    waited: list[float] = []

    def compute(meter_it: bool) -> None:
        os.sched_setaffinity(threading.get_native_id(), {core})
        meter = SchedulerMeter(threading.get_native_id())
        begin = meter.read() or 0.0
        ends_at = time.monotonic() + 0.5
        while time.monotonic() < ends_at:
            sum(range(1000))
        if meter_it:
            waited.append((meter.read() or 0.0) - begin)
        meter.close()

    rival = os.fork()
    if rival == 0:
        compute(meter_it=False)
        os._exit(0)
    thread = threading.Thread(target=compute, args=(True,))
    thread.start()
    thread.join()
    os.waitpid(rival, 0)
    assert 0.05 < waited[0] < 0.5


def test_a_thread_that_is_not_there_reads_as_unknown() -> None:
    assert SchedulerMeter(2**22 + 1).read() is None
