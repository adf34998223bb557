"""What the host counts, against what was done to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from subprocess import PIPE

import pytest

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
    shares: list[float] = []

    def compute() -> None:
        os.sched_setaffinity(threading.get_native_id(), {core})
        meter = SchedulerMeter(threading.get_native_id())
        began, waited = time.monotonic(), meter.read()
        if waited is None:
            return
        while time.monotonic() < began + 0.5:
            sum(range(1000))
        shares.append(((meter.read() or 0.0) - waited) / (time.monotonic() - began))
        meter.close()

    rival = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=PIPE)
    try:
        assert rival.stdout is not None
        rival.stdout.readline()  # it computes from here on
        os.sched_setaffinity(rival.pid, {core})
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    finally:
        rival.kill()
        rival.communicate()
    if not shares:
        pytest.skip("this kernel does not count how long threads wait")
    assert 0.1 < shares[0] < 1  # two on a core: half, and more the busier the machine is


def test_a_thread_that_is_not_there_reads_as_unknown() -> None:
    assert SchedulerMeter(2**22 + 1).read() is None
