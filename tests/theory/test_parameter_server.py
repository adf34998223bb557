"""The parameter server's cost against a step acted out message by message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.strategies.parameter_server.strategy import PULL, PUSH, ParameterServer
from distsqz.strategies.strategy import Sent
from distsqz.theory.placement import LinkLoad, Placement, shard_name
from distsqz.theory.prediction import links_busy_s

ALEXNET = 244_403_360


def loads(
    bytes_by_shard: Sequence[int],
    shards: Sequence[str],
    workers: Sequence[str],
    operations: Sequence[str] = (PUSH, PULL),
) -> dict[str, LinkLoad]:
    """What each host's link carries when every worker pushes to every shard and pulls from it."""
    sent = [
        (Sent(operation, owned, shard_name(index)), 1.0)
        for index, owned in enumerate(bytes_by_shard)
        for operation in operations
    ]
    placement = Placement(workers=workers, shards=shards, spans_hosts=True)
    return ParameterServer().load_by_host(dict.fromkeys(range(len(workers)), sent), placement)


def busy_s(traffic: dict[str, LinkLoad]) -> float:
    return links_busy_s(traffic.values(), 1e8, full_duplex=True).low


HOSTS = st.sampled_from(["h1", "h2", "h3", "h4"])


@given(
    shards=st.lists(st.tuples(st.integers(0, 10**6), HOSTS), min_size=1, max_size=5),
    workers=st.lists(HOSTS, min_size=1, max_size=6),
)
def test_each_link_carries_what_crosses_it_when_every_message_is_sent(
    shards: list[tuple[int, str]], workers: list[str]
) -> None:
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()
    for owned, shard_host in shards:
        for worker_host in workers:
            if worker_host != shard_host:
                for sender, receiver in ((worker_host, shard_host), (shard_host, worker_host)):
                    sent[sender] += owned
                    received[receiver] += owned
    traffic = loads([owned for owned, _ in shards], [host for _, host in shards], workers)
    for host, each in traffic.items():
        assert each == LinkLoad(sent[host], received[host])


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_dedicated_shards_bound_a_step_by_workers_times_payload_over_shards(shards: int) -> None:
    workers = [f"w{index}" for index in range(8)]
    owned, hosts = [ALEXNET // shards] * shards, [f"s{index}" for index in range(shards)]
    full_duplex_s = busy_s(loads(owned, hosts, workers))
    half_duplex_s = sum(busy_s(loads(owned, hosts, workers, [operation])) for operation in (PUSH, PULL))
    assert full_duplex_s == pytest.approx(8 * ALEXNET / shards / 1e8)
    assert half_duplex_s == pytest.approx(2 * full_duplex_s)


def test_a_shard_beside_every_worker_costs_what_a_ring_costs() -> None:
    """Each host sends (n - 1)/n of the payload as a worker, and as much as a shard."""
    hosts = ["h1", "h2", "h3", "h4"]
    traffic = loads([ALEXNET // 4] * 4, hosts, hosts)
    assert {each.tx_bytes for each in traffic.values()} == {2 * 3 * ALEXNET // 4}
    assert {each.rx_bytes for each in traffic.values()} == {2 * 3 * ALEXNET // 4}


def test_a_server_and_its_only_worker_on_one_host_send_nothing() -> None:
    (each,) = loads([ALEXNET], ["h1"], ["h1"]).values()
    assert each == LinkLoad(0, 0)
