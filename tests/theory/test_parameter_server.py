"""The parameter server's cost against a step acted out message by message."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.theory.parameter_server import full_duplex_s, half_duplex_s, traffic_by_host
from distsqz.theory.placement import LinkLoad

ALEXNET = 244_403_360
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
    traffic = traffic_by_host([owned for owned, _ in shards], [host for _, host in shards], workers)
    for host, each in traffic.items():
        assert each.load == LinkLoad(sent[host], received[host])


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_dedicated_shards_bound_a_step_by_workers_times_payload_over_shards(shards: int) -> None:
    workers = [f"w{index}" for index in range(8)]
    traffic = traffic_by_host([ALEXNET // shards] * shards, [f"s{index}" for index in range(shards)], workers)
    assert full_duplex_s(traffic, 1e8) == pytest.approx(8 * ALEXNET / shards / 1e8)
    assert half_duplex_s(traffic, 1e8) == pytest.approx(2 * full_duplex_s(traffic, 1e8))


def test_a_shard_beside_every_worker_costs_what_a_ring_costs() -> None:
    """Each host sends (n - 1)/n of the payload as a worker, and as much as a shard."""
    hosts = ["h1", "h2", "h3", "h4"]
    traffic = traffic_by_host([ALEXNET // 4] * 4, hosts, hosts)
    assert {each.load.tx_bytes for each in traffic.values()} == {2 * 3 * ALEXNET // 4}
    assert {each.load.rx_bytes for each in traffic.values()} == {2 * 3 * ALEXNET // 4}


def test_a_server_and_its_only_worker_on_one_host_send_nothing() -> None:
    (each,) = traffic_by_host([ALEXNET], ["h1"], ["h1"]).values()
    assert each.load == LinkLoad(0, 0)
