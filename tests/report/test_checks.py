"""Rules between the views of a cell's bytes: clean runs raise nothing, and every planted fault is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from handmade_views import breaches, clean_views, ddp_cell, ps_cell
from hypothesis import given, settings
from hypothesis import strategies as st

from distsqz.report.checks import Breach, CellViews, check
from distsqz.report.faults import breach_warnings
from distsqz.report.tables import CellTable

BIG_BYTES = 4_225_832
"""Payload of a model of 1,056,458 parameters."""
TWO_BY_TWO = ["h1", "h1", "h2", "h2"]
HOSTS = st.lists(st.sampled_from(["h1", "h2", "h3"]), min_size=1, max_size=6)
NULL = float("nan")
COUNTERS = [f"{view}_{way}_bytes" for view in ("nic", "wire") for way in ("tx", "rx")]


def ring() -> CellViews:
    """All-reduce on two hosts of two ranks: 0 and 2 send across, 1 and 3 to their neighbour beside them."""
    return clean_views(ddp_cell(BIG_BYTES, TWO_BY_TWO))


def servers() -> CellViews:
    """A parameter server with a shard beside each of four workers on two hosts."""
    return clean_views(ps_cell(BIG_BYTES, TWO_BY_TWO, ["h1", "h2", "h1", "h2"]))


def test_handmade_views_are_those_of_a_real_run() -> None:
    """The figures are of a run of this model on two emulated hosts at 1 Gbit/s."""
    of_rank = servers().steps.set_index("rank").loc[0].iloc[0]
    assert of_rank["predicted_tx_bytes"] == 2_112_896
    assert (of_rank["tcp_tx_bytes"], of_rank["tcp_rx_bytes"]) == (2_114_232, 2_114_448)
    assert of_rank["nic_tx_bytes"] == pytest.approx(8_481_041, rel=1e-3)
    assert of_rank["wire_tx_bytes"] == pytest.approx(8_857_428, rel=1e-3)
    two_buckets = clean_views(ddp_cell(BIG_BYTES, TWO_BY_TWO), bucket_bytes=BIG_BYTES // 2)
    of_rank = two_buckets.steps.set_index("rank").loc[0].iloc[0]
    assert of_rank["tcp_tx_bytes"] == pytest.approx(6_341_064, abs=20)
    assert (of_rank["tcp_rx_bytes"], of_rank["tcp_local_tx_bytes"]) == (1152, 1152)
    assert of_rank["wire_tx_bytes"] == pytest.approx(6_640_804, rel=1e-3)


CONSISTENCY = st.sampled_from(
    [{}, {"consistency": "async"}, {"consistency": "ssp", "staleness": 2}, {"backup_workers": 1}]
)


@settings(max_examples=40)
@given(
    hosts=HOSTS,
    shards=st.none() | HOSTS.map(lambda hosts: hosts[:4]),
    consistency=CONSISTENCY,
    payload_elements=st.integers(250, 62_000_000),
    bucket_mb=st.sampled_from([1, 25, 1000]),
    steps=st.integers(1, 10),
    unseen_share=st.floats(0, 0.04),
    background_bytes=st.integers(0, 1_000_000),
    wall_s=st.floats(0.01, 10),
)
def test_a_clean_run_raises_nothing(
    hosts: list[str],
    shards: list[str] | None,
    consistency: dict[str, Any],
    payload_elements: int,
    bucket_mb: int,
    steps: int,
    unseen_share: float,
    background_bytes: int,
    wall_s: float,
) -> None:
    payload_bytes, entries = 4 * payload_elements, {"steps": steps, "block_steps": steps}
    of = (
        ps_cell(payload_bytes, hosts, shards, **consistency, **entries)
        if shards
        else ddp_cell(payload_bytes, hosts, **entries)
    )
    views = clean_views(of, bucket_mb << 20, wall_s)
    views.steps[COUNTERS] = views.steps[COUNTERS] * (1 - unseen_share) + background_bytes / steps
    assert breaches(views) == []


def change(views: CellViews, columns: str | list[str], rank: int | None, to: Callable[[Any], Any]) -> None:
    """Changes columns of one rank's steps, or of every rank's, in place."""
    names = [columns] if isinstance(columns, str) else columns
    rows = views.steps["rank"].eq(rank) if rank is not None else views.steps["rank"].notna()
    views.steps[names] = views.steps[names].astype(float)
    views.steps.loc[rows, names] = to(views.steps.loc[rows, names])


def swap(views: CellViews, columns: list[str], one: int, other: int) -> None:
    """Exchanges columns of two ranks' steps."""
    ranks = views.steps["rank"].replace({one: other, other: one})
    exchanged = views.steps.assign(rank=ranks).set_index(["step", "rank"])[columns]
    views.steps[columns] = exchanged.loc[
        list(zip(views.steps["step"], views.steps["rank"], strict=True))
    ].values


def double_rank_0(views: CellViews) -> None:
    change(views, "tcp_tx_bytes", 0, lambda column: 2 * column)


def double_connections_of_rank_2(views: CellViews) -> None:
    change(views, "tcp_rx_bytes", 2, lambda column: 2 * column)
    views.peers.loc[(views.peers["rank"] == 2) & ~views.peers["same_host"], "rx_bytes"] *= 2


def swap_tcp_of_neighbours(views: CellViews) -> None:
    swap(views, ["tcp_tx_bytes", "tcp_rx_bytes", "tcp_local_tx_bytes", "tcp_local_rx_bytes"], 0, 1)


def swap_predictions_of_neighbours(views: CellViews) -> None:
    swap(views, ["predicted_tx_bytes", "predicted_local_tx_bytes"], 2, 3)


def swap_directions_of_rank_0(views: CellViews) -> None:
    change(views, ["tcp_tx_bytes", "tcp_rx_bytes"], 0, lambda columns: columns.values[:, ::-1])


def lose_shard_1(views: CellViews) -> CellViews:
    of_shard = views.peers["peer"].eq("shard 1")
    for rank in (0, 1):
        lost = views.peers[of_shard & views.peers["rank"].eq(rank)].iloc[0]
        for way in ("tx", "rx"):
            change(views, f"tcp_{way}_bytes", rank, lambda column, lost=lost[f"{way}_bytes"]: column - lost)
    return replace(views, peers=views.peers[~(of_shard & views.peers["rank"].isin([0, 1]))])


def count_local_bytes_of_rank(rank: int) -> Callable[[CellViews], None]:
    def plant(views: CellViews) -> None:
        names = ["tcp_tx_bytes", "tcp_local_tx_bytes"]
        change(views, names, rank, lambda columns: columns.assign(tcp_tx_bytes=columns.sum(axis=1)))
        change(views, "tcp_local_tx_bytes", rank, lambda column: 0 * column)

    return plant


def add_stranger_on_h1(views: CellViews) -> None:
    for rank in (0, 1):
        change(views, ["nic_tx_bytes", "wire_tx_bytes"], rank, lambda columns: columns + 6e6)


def count_repetitions(views: CellViews) -> None:
    change(views, "tcp_tx_bytes", 0, lambda column: (1.07 * column).round())
    change(views, "queue_dropped_packets", 0, lambda column: column + 300)
    change(views, "tcp_retrans_bytes", 0, lambda column: column * NULL)


def forget_a_bucket_of_rank_2(views: CellViews) -> CellViews:
    forgotten = views.transfers["rank"].eq(2) & views.transfers["bucket"].eq(1)
    names = [f"{view}_bytes" for view in ("logical_tx", "logical_rx", "predicted_tx", "predicted_local_rx")]
    change(views, names, 2, lambda columns: columns / 2)
    return replace(views, transfers=views.transfers[~forgotten])


def send_nothing(views: CellViews) -> CellViews:
    names = [name for name in views.steps if name.startswith(("logical_", "predicted_", "tcp_"))]
    change(views, names, None, lambda columns: 0 * columns)
    views.peers[["tx_bytes", "rx_bytes"]] = 0
    return replace(views, transfers=views.transfers[:0])


def predict_for_two_ranks(views: CellViews) -> None:
    change(views, "predicted_tx_bytes", None, lambda column: (column / 1.5).round())


def exchange_wires(views: CellViews) -> None:
    swap(views, ["wire_tx_bytes", "wire_rx_bytes"], 1, 2)
    swap(views, ["wire_tx_bytes", "wire_rx_bytes"], 0, 1)
    change(views, ["wire_tx_bytes", "wire_rx_bytes"], 1, lambda columns: columns / 2)


def count_loopback_on_h1(views: CellViews) -> None:
    for rank in (0, 1):
        change(views, ["nic_tx_bytes", "nic_rx_bytes"], rank, lambda columns: 0 * columns + 3000)


def count_a_step_more_of_peers(views: CellViews) -> CellViews:
    warmup = views.peers[views.peers["step"] == 0]
    return replace(views, peers=pd.concat([views.peers, warmup]))


def take_peers_of_another_cell(views: CellViews) -> CellViews:
    return replace(views, peers=servers().peers)


def take_less_than_the_bound(views: CellViews) -> CellViews:
    views.transfers["t_done_ns"] = views.transfers["t_launch_ns"] + 3 * 10**8
    return replace(views, longest_comm_s=0.3)


def unlike_hosts() -> CellViews:
    """A dedicated server, two workers on one host and one on another, which carries half as much."""
    return clean_views(ps_cell(BIG_BYTES, ["h1", "h1", "h2"], ["h3"]))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that is planted into clean views, and what the rules must tell about it."""

    views: Callable[[], CellViews]
    plant: Callable[[CellViews], CellViews | None]
    """Changes the views in place, or gives others."""
    pair: tuple[str, str]
    ranks: set[int] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    cause: str = ""
    """Words of the likely cause; empty where the rules cannot tell."""


TCP_TX, TCP_RX = ("tcp_tx_bytes", "predicted_tx_bytes"), ("tcp_rx_bytes", "predicted_rx_bytes")
PREDICTED, LOGICAL = ("predicted_tx_bytes", "logical_tx_bytes"), ("logical_tx_bytes", "payload_bytes")
WIRE, NIC = ("wire_tx_bytes", "tcp_tx_bytes"), ("nic_tx_bytes", "tcp_tx_bytes")
PEERS = ("tcp_tx_bytes", "tx_bytes of its peers")
EVERY_RANK = {0, 1, 2, 3}

FAULTS = {
    "a counter doubled": Fault(
        views=ring, plant=double_rank_0, pair=TCP_TX, ranks={0}, cause="added up twice"
    ),
    "connections counted twice": Fault(
        views=servers, plant=double_connections_of_rank_2, pair=TCP_RX, ranks={2}, cause="added up twice"
    ),
    "TCP of two ranks swapped": Fault(views=ring, plant=swap_tcp_of_neighbours, pair=TCP_TX, ranks={0, 1}),
    "predictions of two ranks swapped": Fault(
        views=ring, plant=swap_predictions_of_neighbours, pair=PREDICTED, ranks={2, 3}, cause="other hosts"
    ),
    "directions swapped": Fault(views=ring, plant=swap_directions_of_rank_0, pair=TCP_TX, ranks={0}),
    "a shard's connection uncounted": Fault(
        views=servers, plant=lose_shard_1, pair=TCP_TX, ranks={0, 1}, cause="the connection to shard 1"
    ),
    "in-host bytes of a ring counted as the network's": Fault(
        views=ring, plant=count_local_bytes_of_rank(1), pair=TCP_TX, ranks={1},
        cause="what stays on the host is counted as what crosses the network",
    ),
    "in-host bytes of pushes counted as the network's": Fault(
        views=servers, plant=count_local_bytes_of_rank(3), pair=TCP_TX, ranks={3},
        cause="what stays on the host is counted as what crosses the network",
    ),
    "a stranger on the wire": Fault(
        views=ring, plant=add_stranger_on_h1, pair=WIRE, hosts={"h1"}, cause="other programs"
    ),
    "a stranger on the interface": Fault(
        views=servers, plant=add_stranger_on_h1, pair=NIC, hosts={"h1"}, cause="other programs"
    ),
    "repetitions counted as payload": Fault(
        views=ring, plant=count_repetitions, pair=TCP_TX, ranks={0}, cause="what TCP repeated"
    ),
    "a bucket not noted": Fault(
        views=lambda: clean_views(ddp_cell(BIG_BYTES, TWO_BY_TWO), bucket_bytes=BIG_BYTES // 2),
        plant=forget_a_bucket_of_rank_2, pair=LOGICAL, ranks={2}, cause="not sent, or not counted",
    ),
    "nothing sent": Fault(
        views=ring, plant=send_nothing, pair=LOGICAL, ranks=EVERY_RANK, cause="not sent, or not counted"
    ),
    "predicted for another world size": Fault(
        views=ring, plant=predict_for_two_ranks, pair=PREDICTED, ranks={0, 2}, cause="another number of ranks"
    ),
    "wires of other hosts": Fault(views=unlike_hosts, plant=exchange_wires, pair=WIRE, hosts={"h1", "h2"}),
    "another interface counted": Fault(
        views=ring, plant=count_loopback_on_h1, pair=NIC, hosts={"h1"}, cause="another interface"
    ),
    "warm-up in the table of peers": Fault(
        views=ring, plant=count_a_step_more_of_peers, pair=PEERS, ranks=EVERY_RANK, cause="other steps"
    ),
    "peers of another cell": Fault(
        views=ring, plant=take_peers_of_another_cell, pair=PEERS, ranks=EVERY_RANK, cause="of other steps"
    ),
    "a time below its bound": Fault(
        views=ring, plant=take_less_than_the_bound, pair=("comm_s", "bound_s"), cause="another rate"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_views_and_its_place(name: str) -> None:
    fault = FAULTS[name]
    views = fault.views()
    assert breaches(views) == []
    views = fault.plant(views) or views
    told = breaches(views)
    of_pair = [breach for breach in told if breach.views == fault.pair]
    assert of_pair
    assert {breach.rank for breach in of_pair} - {None} == fault.ranks
    assert {breach.host for breach in of_pair} - {None} == fault.hosts
    assert all(fault.cause in breach.cause for breach in of_pair)
    assert {breach.rank for breach in told} <= fault.ranks | {None}


@pytest.mark.parametrize("entries", [{"consistency": "async"}, {"backup_workers": 1}])
def test_ranks_that_go_their_own_ways_are_not_held_against_their_host_s_counters(
    entries: dict[str, Any],
) -> None:
    """A fast worker's host carries what slow ones still have to do in their warm-up."""
    views = clean_views(ps_cell(BIG_BYTES, TWO_BY_TWO, ["h1"], **entries))
    change(views, COUNTERS, None, lambda columns: 1.6 * columns)
    assert breaches(replace(views, longest_comm_s=0.1)) == []


@pytest.mark.parametrize("restart", [{"restarted": ["rank 1"]}, {}])
def test_a_restarted_cell_may_have_moved_and_noted_a_step_twice(restart: dict[str, Any]) -> None:
    views = count_a_step_more_of_peers(ring())
    change(views, "attempt", None, lambda column: column + (not restart))
    moved = views.cell | restart | {"hosts": ["h1", "h2", "h1", "h2"]}
    assert breaches(replace(views, cell=moved)) == []


def test_counters_that_tcp_cannot_be_held_against_raise_nothing() -> None:
    """NCCL's bytes are not in the sockets of its processes."""
    views = ring()
    of_tcp = [name for name in views.steps if name.startswith("tcp_")]
    change(views, of_tcp, None, lambda columns: columns * NULL)
    assert breaches(views) == []


def test_the_last_step_of_a_run_under_way_may_still_be_queued() -> None:
    views = ring()
    last = views.steps["step"].eq(views.steps["step"].max())
    views.steps.loc[last, ["wire_tx_bytes", "nic_tx_bytes"]] //= 3
    assert {breach.views for breach in breaches(views)} == {WIRE, NIC}
    assert breaches(replace(views, cell=views.cell | {"steps": 100})) == []


def test_the_last_step_of_a_parameter_server_under_way_may_not_have_sent_all() -> None:
    views = servers()
    last = views.steps["step"].eq(views.steps["step"].max())
    for name in ("tcp_tx_bytes", "tcp_rx_bytes", "tcp_local_tx_bytes", "tcp_local_rx_bytes"):
        views.steps.loc[last, name] //= 2
    views = replace(views, peers=views.peers[:0])
    assert TCP_TX in {breach.views for breach in breaches(views)}
    assert breaches(replace(views, cell=views.cell | {"steps": 100})) == []


def of_older_distsqz(views: CellViews) -> CellViews:
    """The same views by a distsqz that counted what stays on a host as if it crossed the network."""
    for way in ("tx", "rx"):
        for view in ("predicted", "tcp"):
            views.steps[f"{view}_{way}_bytes"] += views.steps[f"{view}_local_{way}_bytes"]
            views.steps[f"{view}_local_{way}_bytes"] = NULL
    views.peers["same_host"] = None
    return replace(views, cell={key: value for key, value in views.cell.items() if key != "spans_hosts"})


@pytest.mark.parametrize("views", [ring, servers])
def test_an_older_run_without_local_columns_raises_nothing(views: Callable[[], CellViews]) -> None:
    assert breaches(of_older_distsqz(views())) == []


def test_an_older_run_on_hosts_of_one_name_raises_nothing() -> None:
    views = of_older_distsqz(clean_views(ddp_cell(BIG_BYTES, ["h1", "h2"])))
    views.steps["host"] = "h1"
    assert breaches(replace(views, cell=views.cell | {"hosts": ["h1", "h1"]})) == []


def test_a_cell_without_steps_raises_nothing() -> None:
    views = ring()
    assert check(replace(views, steps=views.steps[:0])) == []


def test_ranks_that_break_a_rule_for_one_reason_share_a_warning_with_the_figures_of_the_worst() -> None:
    def breach(rank: int, tcp: float, cause: str) -> Breach:
        views = ("tcp_tx_bytes", "predicted_tx_bytes")
        return Breach(cell="c", views=views, values=(tcp, 1000), cause=cause, rank=rank)

    found = [breach(0, 900, "lost"), breach(1, 400, "lost"), breach(2, 2000, "doubled")]
    cell = SimpleNamespace(breaches=found)
    assert breach_warnings([cast(CellTable, cell)]) == [
        "Warning: c, rank 1 and 1 other rank: tcp_tx_bytes 400 does not agree with predicted_tx_bytes 1,000 "
        "a step; likely cause: lost.",
        "Warning: c, rank 2: tcp_tx_bytes 2,000 does not agree with predicted_tx_bytes 1,000 a step; "
        "likely cause: doubled.",
    ]
