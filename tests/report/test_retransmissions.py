"""Retransmissions by link against sums worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from handmade_runs import cell, steps, write_run

from distsqz import open_run
from distsqz.metering.schema import PeerRecord, Record
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section
from distsqz.report.sections import retransmissions


def peer(of: dict[str, Any], step: int, rank: int, peer_rank: int, **columns: Any) -> PeerRecord:
    record: dict[str, Any] = {
        "cell": of["cell"],
        "rank": rank,
        "step": step,
        "peer": f"10.0.0.{peer_rank}",
        "peer_rank": peer_rank,
        "same_host": False,
        "tx_bytes": 1_000_000,
        "rx_bytes": 1_000_000,
        "retrans_bytes": 0,
        "rtt_us": 100,
    }
    return PeerRecord(**record | columns)


def section_of(root: Path, of: dict[str, Any], records: list[Record]) -> Section:
    made = [*steps(of, [1.0, 1.0]), *records]
    return retransmissions.section([MeasuredRun(open_run(write_run(root, [of], made)))])


def test_ranks_of_a_host_are_summed_by_link_and_warm_up_is_left_out(tmp_path: Path) -> None:
    of = cell(world_size=4, hosts=["a", "a", "b", "c"])
    ring = [(0, 1), (1, 2), (0, 2), (2, 3)]
    records: list[Record] = [
        peer(of, step, rank, other, retrans_bytes=1000 * (rank + 1))
        for step in (0, 1, 2)
        for rank, other in ring
    ]
    section = section_of(tmp_path, of, records)
    assert [
        (row["host"], row["peer_host"], row["tx_bytes"], row["retrans_bytes"], row["retrans_share"])
        for row in section.rows
    ] == [("a", "b", 4_000_000, 6000, 0.0015), ("b", "c", 2_000_000, 6000, 0.003)]
    assert section.noteworthy


def test_a_shard_is_the_host_that_it_ran_on(tmp_path: Path) -> None:
    of = cell(strategy="ps", servers=1, server_hosts=["s"])
    to_shard = replace(peer(of, 1, 0, 0, retrans_bytes=7), peer="shard 0", peer_rank=None)
    (row,) = section_of(tmp_path, of, [to_shard]).rows
    assert (row["host"], row["peer_host"], row["retrans_bytes"]) == ("a", "s", 7)


def test_what_is_unknown_of_a_step_is_unknown_of_the_link(tmp_path: Path) -> None:
    of = cell()
    records: list[Record] = [peer(of, 1, 0, 1, retrans_bytes=None), peer(of, 2, 0, 1)]
    (row,) = section_of(tmp_path, of, records).rows
    assert (row["tx_bytes"], row["retrans_bytes"], row["retrans_share"]) == (2_000_000, None, None)


def test_a_link_that_carries_next_to_nothing_does_not_make_the_table_noteworthy(tmp_path: Path) -> None:
    of = cell()
    records: list[Record] = [peer(of, 1, 0, 1), peer(of, 1, 1, 0, tx_bytes=100, retrans_bytes=50)]
    section = section_of(tmp_path, of, records)
    assert [section.rows[index]["host"] for index in section.visible()] == ["b", "a"]
    assert not section.noteworthy


def test_few_retransmissions_and_none_are_not_noteworthy(tmp_path: Path) -> None:
    of = cell()
    assert not section_of(tmp_path, of, [peer(of, 1, 0, 1, retrans_bytes=999)]).noteworthy
    assert section_of(tmp_path, of, [peer(of, 1, 0, 1, retrans_bytes=1000)]).noteworthy
    assert section_of(tmp_path, of, []).rows == ()
