"""The path around a ring of hosts, measured over loopback by threads that stand for ranks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from distsqz.errors import RunError
from distsqz.metering import link
from distsqz.metering.link import measure_ring
from distsqz.metering.schema import LinkRecord
from tests.ipv6 import LOOPBACK


class Meeting:
    """An all-gather among threads."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks)
        self._handed_in: list[Any] = [None] * ranks

    def exchange_of(self, rank: int) -> link.Exchange:
        """The exchange as that rank calls it."""

        def exchange(value: Any) -> Sequence[Any]:
            self._handed_in[rank] = value
            self._barrier.wait(20)
            gathered = list(self._handed_in)
            self._barrier.wait(20)
            return gathered

        return exchange


def measured(hosts: list[str], address: str = "127.0.0.1", stream_s: float = 0.1) -> list[list[LinkRecord]]:
    """What each rank records."""
    meeting = Meeting(len(hosts))
    with ThreadPoolExecutor(len(hosts)) as ranks:
        return list(
            ranks.map(
                lambda rank: measure_ring(rank, hosts, address, stream_s, meeting.exchange_of(rank)),
                range(len(hosts)),
            )
        )


@pytest.mark.parametrize("address", LOOPBACK)
def test_each_path_around_the_ring_is_recorded_where_it_ends(address: str) -> None:
    by_rank = measured(["a", "b", "c"], address)
    assert [len(records) for records in by_rank] == [1, 1, 1]
    paths = [(one.rank, one.host, one.peer_rank, one.peer_host) for (one,) in by_rank]
    assert paths == [(2, "c", 0, "a"), (0, "a", 1, "b"), (1, "b", 2, "c")]


def test_the_first_rank_of_a_host_measures_for_it() -> None:
    by_rank = measured(["a", "a", "b", "b"])
    assert [len(records) for records in by_rank] == [1, 0, 1, 0]
    assert [(one.rank, one.peer_rank) for (one,) in (by_rank[0], by_rank[2])] == [(2, 0), (0, 2)]


def test_goodput_is_in_bytes_and_the_round_trip_in_microseconds() -> None:
    """Bounds that hold for any loopback, however busy the machine is."""
    for (record,) in measured(["a", "b"]):
        assert 1e6 < record.goodput_bytes_per_s < 1e12
        assert 1 <= record.rtt_us < 1_000_000


def test_a_single_host_has_no_path_to_measure() -> None:
    def exchange(_: Any) -> Sequence[Any]:
        raise AssertionError("nobody to meet")

    assert measure_ring(1, ["a", "a"], "127.0.0.1", 0.1, exchange) == []


def test_a_host_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "TIMEOUT_S", 0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but does not listen
        with pytest.raises(RunError, match=r"the path from a to b carries no stream \(.*refused") as failed:
            measure_ring(0, ["a", "b"], "127.0.0.1", 0.1, lambda _: [None, closed.getsockname()])
    assert (failed.value.host, failed.value.rank) == ("a", 0)
    with pytest.raises(RunError, match=r"the path from a to b carries no stream \(timed out\)"):
        measure_ring(1, ["a", "b"], "127.0.0.1", 0.1, lambda own: [None, own])


def test_a_sender_that_goes_away_is_told_apart_from_a_slow_path() -> None:
    def leave(address: tuple[str, int]) -> None:
        with socket.create_connection(address) as connection:
            for _ in range(link.PINGS):
                connection.sendall(connection.recv(1))

    def exchange(own: Any) -> Sequence[Any]:
        threading.Thread(target=leave, args=(own,)).start()
        return [None, own]

    with pytest.raises(RunError, match="ended before its rate could be told"):
        measure_ring(1, ["a", "b"], "127.0.0.1", 0.1, exchange)
