"""What the formulas say crosses each host's link, against the algorithms acted out message by message."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distsqz.metering.transfers import Traffic, Transfer
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.layout import Layout, plan_layout
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Sent
from distsqz.strategies.worker import account_of
from distsqz.theory.placement import LinkLoad, Placement

HOSTS = st.sampled_from(["a", "b", "c"])
WORKERS = st.lists(HOSTS, min_size=1, max_size=7)
SHARDS = st.lists(HOSTS, min_size=1, max_size=4)
OTHER_HOSTS = st.booleans()
"""Whether the session has processes of other cells on other hosts."""


@dataclass
class Sums:
    """Bytes of messages that were sent, told apart by whether they left their host."""

    one_host: bool
    """Then loopback stands for the network, and every message counts as one that crosses it."""
    by_link: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By host and direction: what its link carried."""
    by_process: Counter[tuple[Any, str]] = field(default_factory=Counter)
    """By process and direction, `tx`, `rx`, `local_tx` or `local_rx`."""
    local_peers: set[tuple[Any, Any]] = field(default_factory=set)
    """Sender and receiver of messages that left no host."""

    def send(self, sender: Any, receiver: Any, origin: str, destination: str, size_bytes: int) -> None:
        crosses = origin != destination or self.one_host
        kind = "" if crosses else "local_"
        self.by_process[sender, f"{kind}tx"] += size_bytes
        self.by_process[receiver, f"{kind}rx"] += size_bytes
        if crosses:
            self.by_link[origin, "tx"] += size_bytes
            self.by_link[destination, "rx"] += size_bytes
        else:
            self.local_peers.add((sender, receiver))

    def traffic(self, process: Any) -> dict[str, int]:
        return {way: self.by_process[process, way] for way in ("tx", "rx", "local_tx", "local_rx")}

    def load(self, host: str) -> LinkLoad:
        return LinkLoad(self.by_link[host, "tx"], self.by_link[host, "rx"])


def act_out_all_reduce(parts: Sequence[int], hosts: Sequence[str], one_host: bool) -> Sums:
    """Goes through a ring all-reduce, on sets of ranks in place of gradients, and counts its messages."""
    n = len(hosts)
    sums = Sums(one_host)
    summed = [[{rank} for _ in range(n)] for rank in range(n)]
    for step in range(2 * (n - 1)):
        reduces = step < n - 1
        messages = [(rank, (rank + step) % n) for rank in range(n)]
        sent = [summed[rank][part] for rank, part in messages]
        for (rank, part), content in zip(messages, sent, strict=True):
            to = (rank - 1) % n
            sums.send(rank, to, hosts[rank], hosts[to], parts[part])
            summed[to][part] = content | summed[to][part] if reduces else content
    assert all(content == set(range(n)) for of_rank in summed for content in of_rank)
    return sums


def act_out_parameter_server(layout: Layout, placement: Placement, one_host: bool) -> Sums:
    """Every worker pushes every chunk to the shard that owns it, and pulls it."""
    sums = Sums(one_host)
    for rank, worker in enumerate(placement.workers):
        for chunk in range(layout.chunks):
            owner = layout.shard_of(chunk)
            ends = rank, f"shard {owner}"
            hosts = worker, placement.shards[owner]
            sums.send(*ends, *hosts, 4 * layout.chunk_size(chunk))
            sums.send(*ends[::-1], *hosts[::-1], 4 * layout.chunk_size(chunk))
    return sums


def total(traffic: Sequence[Traffic]) -> dict[str, int]:
    """What an account predicts, under the names of `Sums.traffic`."""
    return {
        way: sum(getattr(each, f"predicted_{way}_bytes") for each in traffic)
        for way in ("tx", "rx", "local_tx", "local_rx")
    }


def uneven_parts(payload_bytes: int, n: int, seed: int) -> list[int]:
    """A payload in n parts that differ by an element of 4 bytes and by what is left over."""
    elements, rest = divmod(payload_bytes, 4)
    parts = [4 * (elements // n + (part < elements % n)) for part in range(n)]
    parts[-1] += rest
    random.Random(seed).shuffle(parts)
    return parts


@given(
    workers=WORKERS, others=OTHER_HOSTS, payload_bytes=st.integers(0, 250_000_000), seed=st.integers(0, 99)
)
def test_a_ring_s_bytes_cross_where_its_messages_do(
    workers: list[str], others: bool, payload_bytes: int, seed: int
) -> None:
    placement = Placement(workers=workers, spans_hosts=others or None)
    parts = uneven_parts(payload_bytes, len(workers), seed)
    acted = act_out_all_reduce(parts, workers, one_host=not others and len(set(workers)) == 1)
    # A rank leaves out one part in either half of the steps, and the formula a mean part.
    tolerance_bytes = 2 * (max(parts) - min(parts)) + 1

    loads = AllReduce().planned_load_by_host(payload_bytes, placement)
    assert set(loads) == set(workers)
    for host, load in loads.items():
        assert abs(load.tx_bytes - acted.load(host).tx_bytes) <= tolerance_bytes * len(workers)
        assert abs(load.rx_bytes - acted.load(host).rx_bytes) <= tolerance_bytes * len(workers)

    transfer = Transfer("all_reduce", 0, 0, None, payload_bytes, 0)
    for rank in range(len(workers)):
        predicted = total([account_of(AllReduce(), rank, placement)(transfer)])
        for way, value in acted.traffic(rank).items():
            assert abs(predicted[way] - value) <= tolerance_bytes
        beside = {sender for sender, receiver in acted.local_peers if receiver == rank}
        assert (rank + 1) % len(workers) not in beside ^ set(placement.local_ranks(rank))


@given(workers=WORKERS, shards=SHARDS, others=OTHER_HOSTS, elements=st.integers(4, 3_000_000))
def test_a_parameter_server_s_bytes_cross_where_its_chunks_do(
    workers: list[str], shards: list[str], others: bool, elements: int
) -> None:
    placement = Placement(workers=workers, shards=shards, spans_hosts=others or None)
    layout = plan_layout([elements], len(shards))
    one_host = not others and len({*workers, *shards}) == 1
    acted = act_out_parameter_server(layout, placement, one_host)

    if not one_host:
        owned = [4 * sum(map(layout.chunk_size, layout.owned_by(shard))) for shard in range(layout.shards)]
        pushes = [(Sent("push", size, f"shard {index}"), 1.0) for index, size in enumerate(owned)]
        pulls = [(Sent("pull", size, f"shard {index}"), 1.0) for index, size in enumerate(owned)]
        by_rank = {rank: [*pushes, *pulls] for rank in range(len(workers))}
        loads = ParameterServer().load_by_host(by_rank, placement)
        assert loads == {host: acted.load(host) for host in {*workers, *shards}}

    transfers = [
        Transfer(op, 0, chunk, f"shard {layout.shard_of(chunk)}", 4 * layout.chunk_size(chunk), 0)
        for op in ("push", "pull")
        for chunk in range(layout.chunks)
    ]
    for rank in range(len(workers)):
        account = account_of(ParameterServer(), rank, placement)
        assert total([account(transfer) for transfer in transfers]) == acted.traffic(rank)
        beside = {peer for process, peer in acted.local_peers if process == rank}
        assert {f"shard {index}" for index in placement.local_shards(rank)} == beside


def test_loopback_stands_for_the_network_of_one_host() -> None:
    """Four ranks on one host count 2 (4 - 1) / 4 of the payload each way; beside a second host none of it."""
    alone = AllReduce().planned_load_by_host(4000, Placement(workers=["a"] * 4))
    among_others = AllReduce().planned_load_by_host(4000, Placement(workers=["a"] * 4, spans_hosts=True))
    assert (alone["a"], among_others["a"]) == (LinkLoad(24_000, 24_000), LinkLoad(0, 0))
