"""Runs as tables: what each cell measured, over the rows that count. Unknown is None throughout."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from distsqz.report.bootstrap import Floats, median_interval
from distsqz.report.bounds import bound_s as bound_of
from distsqz.report.bounds import busiest_host_bytes, load_by_host
from distsqz.report.checks import Breach, CellViews, check
from distsqz.report.instruments import combined
from distsqz.report.lateness import COMPUTE, Waiting, late_ranks, slowest_rank_s, split_waiting
from distsqz.report.measured import makes_steps_together, measured_steps, measured_updates, of_steps
from distsqz.report.traffic import by_host, in_flight_s
from distsqz.runs.columns import Column
from distsqz.runs.reader import Run
from distsqz.strategies.registry import strategy_of
from distsqz.theory.collectives import bus_bandwidth

PARTS = ["data_s", "forward_s", "backward_s", "wait_s", "exposed_comm_s", "optimizer_s", "other_s"]
"""Parts of a step's time, in the order of the step."""

VIEWS = ["logical_tx_bytes", "predicted_tx_bytes", "tcp_tx_bytes", "nic_tx_bytes", "wire_tx_bytes"]
"""The five views of the bytes that a rank sends; the last is for emulated hosts only."""

LOCAL = ["predicted_local_tx_bytes", "tcp_local_tx_bytes"]
"""Columns of the bytes that a rank sends to processes on its own host, which the other views leave out."""

SCHED_WAIT_LIMIT = 0.05
"""Share of a step spent waiting for a core above which cores were oversubscribed."""


@dataclass(frozen=True)
class CellTable:
    """One cell of one run: its row, and the series behind it that comparisons and figures need."""

    run_id: str
    row: dict[str, Any]
    """Every key of the cell in run.json, and what was measured."""
    step_s: pd.Series[float]
    """Wall time by step: that of the slowest rank, or the mean of ranks that do not make steps together. With
    a parameter server the rank that is the slowest in a block stands for all of its steps."""
    shares: pd.Series[float]
    """Share of each part of `PARTS` in the time of all ranks and steps; NaN if unknown."""
    entry: dict[str, Any]
    """Entry of the cell in run.json: its options, and what it ran on."""
    environment: dict[str, Any]
    """The machine that drove the run, and versions, as run.json tells them."""
    breaches: list[Breach]
    """Breaches of the rules that compare the views of its bytes."""

    def block_means_s(self) -> pd.Series[float] | None:
        """Mean step time of each block of consecutive steps; None where the cell ran in no known blocks."""
        return by_block(self.step_s, self.row) if self.row.get("block_steps") else None


def by_block(series: pd.Series[float], cell: dict[str, Any]) -> pd.Series[float]:
    """Means of a series by step over the blocks in which a cell took its turns."""
    return series.groupby((series.index - series.index.min()) // (cell.get("block_steps") or 1)).mean()


def read_cells(
    run: Run,
    steps: pd.DataFrame | None = None,
    peers: pd.DataFrame | None = None,
    updates: pd.DataFrame | None = None,
) -> list[CellTable]:
    """The cells of a run in its own order; one that has measured nothing yet has a row of nulls.

    Args:
        run: the run.
        steps: what `measured_steps` gives for it, where that is known already.
        peers: its rows of `peers` that belong to these steps, likewise.
        updates: what `measured_updates` gives for it, likewise.
    """
    steps = measured_steps(run) if steps is None else steps
    transfers = of_steps(run.table("transfers").to_pandas(), steps)
    peers = of_steps(run.table("peers").to_pandas(), steps) if peers is None else peers
    evaluations = run.table("evaluations").to_pandas()
    updates = measured_updates(run, steps) if updates is None else updates
    links = run.table("links").to_pandas()
    return [
        _read_cell(
            run.run_id,
            run.meta.get("environment") or {},
            cell,
            run.columns("steps"),
            links,
            *(
                table[table["cell"] == cell["cell"]]
                for table in (steps, transfers, peers, evaluations, updates)
            ),
        )
        for cell in run.cells
    ]


def read_shards(run: Run, updates: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """What each shard of a parameter server had to do: a row a cell and shard, a cell's busiest first."""
    updates = measured_updates(run) if updates is None else updates
    if updates.empty:
        return []
    updates = updates.assign(received_bytes=_chunk_bytes(run, updates))
    rows = [
        {
            "cell": cell,
            "shard": shard,
            "host": of_shard["host"].iloc[-1],
            "pushes": len(of_shard),
            "received_bytes": int(of_shard["received_bytes"].sum()),
            "dropped": int(of_shard["dropped"].sum()),
            "queue_wait_s": _number(of_shard["queue_wait_s"].median()),
            "service_s": _number(of_shard["service_s"].median()),
            "busy_s": _number(of_shard["service_s"].sum()),
        }
        for (cell, shard), of_shard in updates.groupby(["cell", "shard"])
    ]
    return sorted(rows, key=lambda row: (str(row["cell"]), -row["received_bytes"], -row["busy_s"]))


def staleness_histogram(run: Run, updates: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Number of updates by staleness, a row for each cell and staleness; dropped updates are left out."""
    updates = measured_updates(run) if updates is None else updates
    counted = updates[~updates["dropped"]]
    rows = []
    for cell, of_cell in counted.groupby("cell"):
        for staleness, number in of_cell["staleness"].value_counts().sort_index().items():
            rows.append(
                {"cell": cell, "staleness": staleness, "updates": number, "share": number / len(of_cell)}
            )
    return rows


def _chunk_bytes(run: Run, updates: pd.DataFrame) -> pd.Series[float]:
    """The payload of each push, which the workers' transfers tell."""
    transfers: pd.DataFrame = run.table("transfers").to_pandas()
    sizes = transfers[transfers["op"] == "push"].groupby(["cell", "bucket"])["payload_bytes"].max()
    keys = pd.MultiIndex.from_frame(updates[["cell", "bucket"]])
    return pd.Series(sizes.reindex(keys).fillna(0).to_numpy(), index=updates.index)


def read_links(run: Run) -> list[dict[str, Any]]:
    """What each path between two hosts carried before training began, around the ring."""
    links: list[dict[str, Any]] = run.table("links").to_pylist()
    return sorted(links, key=lambda link: int(link["rank"]))


def hosts_by_rate(row: dict[str, Any]) -> dict[int, list[str]]:
    """A cell's hosts by the rate of their emulated links, in bits a second; empty where none is known."""
    rates = row.get("emulated_rate_bits_per_s") or {}
    hosts = defaultdict(list)
    for host in dict.fromkeys(row.get("hosts") or rates):
        if host in rates:
            hosts[int(rates[host])].append(host)
    return dict(hosts)


def equal_rate(row: dict[str, Any]) -> int | None:
    """The rate of a cell's emulated links in bits a second; None if rates differ or are not known."""
    rates = {*(row.get("emulated_rate_bits_per_s") or {}).values()}
    return int(rates.pop()) if len(rates) == 1 else None


def _read_cell(
    run_id: str,
    environment: dict[str, Any],
    cell: dict[str, Any],
    columns: Sequence[Column],
    links: pd.DataFrame,
    steps: pd.DataFrame,
    transfers: pd.DataFrame,
    peers: pd.DataFrame,
    evaluations: pd.DataFrame,
    updates: pd.DataFrame,
) -> CellTable:
    by_step = steps.groupby("step")
    together = makes_steps_together(cell)
    # With a parameter server a rank's waits may fall into another step than the other ranks' do.
    block_steps = (cell.get("block_steps") or 1) if cell.get("servers") else 1
    step_s = slowest_rank_s(steps, block_steps) if together else by_step["wall_s"].mean()
    compute_s = steps[COMPUTE].sum(axis=1).groupby(steps["step"]).mean()
    waiting = split_waiting(steps, block_steps) if together else None
    shares = _shares(steps, waiting)
    exposed_comm_s = by_step["exposed_comm_s"].mean()
    typical_s = step_s
    if cell.get("servers"):
        # A step's parameters come in the next one, or at the end of a block: only blocks are alike.
        typical_s, exposed_comm_s = (by_block(series, cell) for series in (step_s, exposed_comm_s))
    means = combined(steps, columns)
    counted = _of_last_attempt(steps, transfers)
    in_flight_s = _in_flight_of_ranks_s(cell, counted)
    comm_s = None if in_flight_s is None else _number(in_flight_s.min(axis=1).median())
    loads = load_by_host(cell, counted)
    busbw = _busbw(cell, counted, comm_s)
    goodput = _number(links["goodput_bytes_per_s"].min())
    bound_s = bound_of(cell, loads, links)
    hosts = by_host(cell, steps, peers)
    sched_wait_share = _share_of_wall(steps, "sched_wait_s")
    row = {
        "run_id": run_id,
        "params": None,
        "payload_bytes": None,
        **cell,
        "planned_steps": cell.get("steps"),
        "steps": len(step_s),
        **means,
        "tcp_vs_predicted": _excess(means["tcp_tx_bytes"], means["predicted_tx_bytes"]),
        "wire_vs_tcp": _wire_vs_tcp(hosts),
        "step_s": _number(typical_s.median()),
        "step_s_ci95": _interval(median_interval(_floats(typical_s))),
        "compute_s": _number(compute_s.median()),
        "exposed_comm_s": _number((waiting.transfer_s if waiting else exposed_comm_s).median()),
        "comm_share": _number(shares["exposed_comm_s"]),
        "wait_s": _number(waiting.others_s.median()) if waiting else None,
        "wait_share": _number(shares["wait_s"]),
        "late_ranks": late_ranks(steps, waiting) if waiting else None,
        "samples_per_s": _samples_per_s(steps, step_s, together),
        "comm_s": comm_s,
        "hidden_comm_s": _hidden(comm_s, waiting),
        "bound_s": bound_s,
        "host_link_bytes": busiest_host_bytes(loads),
        "comm_vs_bound": _quotient(comm_s, bound_s),
        "busbw_bytes_per_s": busbw,
        # Every link carries as much as every other, so the slowest bounds the ring.
        "goodput_bytes_per_s": goodput,
        "busbw_vs_goodput": _quotient(busbw, goodput),
        "rtt_us": _number(links["rtt_us"].median()),
        "sched_wait_share": sched_wait_share,
        "oversubscribed": _oversubscribed(cell, sched_wait_share),
        "staleness_mean": _number(updates[~updates["dropped"]]["staleness"].mean()),
        "dropped_share": _number(updates["dropped"].mean()),
        "accuracy": _number(evaluations["accuracy"].iloc[-1]) if len(evaluations) else None,
    }
    views = CellViews(
        cell=cell,
        steps=steps,
        transfers=transfers,
        peers=peers,
        hosts=hosts,
        # On the first rank to launch: what others send before the last one does takes its link's time, too.
        longest_comm_s=None if in_flight_s is None else _number(in_flight_s.max(axis=1).median()),
        bound_s=bound_s,
    )
    return CellTable(run_id, row, step_s, shares, cell, environment, check(views))


def _shares(steps: pd.DataFrame, waiting: Waiting | None) -> pd.Series[float]:
    """Share of each part of `PARTS` in the ranks' time. Waiting is part of communication if it cannot be
    separated.
    """
    if waiting:
        return waiting.shares.reindex(PARTS)
    shares = {part: _share_of_wall(steps, part) for part in PARTS if part in steps}
    return pd.Series(shares, dtype=float).reindex(PARTS)


def _wire_vs_tcp(hosts: pd.DataFrame | None) -> float | None:
    """Bytes on the wire of all hosts for each byte of payload that their processes sent over TCP."""
    if hosts is None or hosts[["wire_tx_bytes", "tcp_tx_bytes"]].isna().any(axis=None):
        return None
    return _quotient(hosts["wire_tx_bytes"].sum(), hosts["tcp_tx_bytes"].sum())


def _samples_per_s(steps: pd.DataFrame, step_s: pd.Series[float], together: bool) -> float | None:
    """Samples per second of all ranks; the sum of their rates if they do not make steps together."""
    if together:
        return _quotient(steps["samples"].sum(), step_s.sum())
    by_rank = steps.groupby("rank")[["samples", "wall_s"]].sum()
    return _number((by_rank["samples"] / by_rank["wall_s"]).sum()) if len(by_rank) else None


def _busbw(cell: dict[str, Any], transfers: pd.DataFrame, comm_s: float | None) -> float | None:
    """Bytes a second on each link of the ring, for what was handed over to rings."""
    if not comm_s or transfers.empty or (transfers["op"] != "all_reduce").any():
        return None
    payload_bytes = transfers.groupby(["rank", "step"])["payload_bytes"].sum().mean()
    return bus_bandwidth(payload_bytes, cell["world_size"], comm_s)


def _of_last_attempt(steps: pd.DataFrame, transfers: pd.DataFrame) -> pd.DataFrame:
    """The transfers without those of earlier attempts at a step, which were launched before it began."""
    counted = transfers.merge(steps[["rank", "step", "t_start_ns"]], on=["rank", "step"])
    return counted[counted["t_launch_ns"] >= counted["t_start_ns"]]


def _in_flight_of_ranks_s(cell: dict[str, Any], counted: pd.DataFrame) -> pd.DataFrame | None:
    """How long a step's transfers were in flight, step x rank; None where nothing was sent, or it is unknown.

    A rank that arrives early also waits for its peers in that time. The last to arrive sees the transfer
    itself, or less: what its peers have sent before is there already.
    """
    if cell["world_size"] == 1 and not strategy_of(cell).has_servers:
        return None
    if counted.empty or counted["t_done_ns"].isna().any():
        return None
    by_rank: pd.DataFrame = in_flight_s(counted).unstack("rank")
    return by_rank


def _oversubscribed(cell: dict[str, Any], sched_wait_share: float | None) -> bool | None:
    """Whether there were more threads than cores, by the plan or by the scheduler's counts."""
    signs = []
    hosts, threads = cell.get("hosts"), cell.get("threads_per_worker")
    # Emulated hosts all run on the cores of one machine; what each calls its own is a share of them.
    cores = cell.get("machine_cores" if cell.get("emulated") else "cores_by_host")
    if hosts and threads and cores:
        wanted = {host: workers * threads for host, workers in Counter(hosts).items()}
        if cell.get("emulated"):
            signs.append(sum(wanted.values()) > cores)
        else:
            signs.append(any(wanted[host] > cores[host] for host in wanted if host in cores))
    if sched_wait_share is not None:
        signs.append(sched_wait_share > SCHED_WAIT_LIMIT)
    return any(signs) if signs else None


def _share_of_wall(steps: pd.DataFrame, column: str) -> float | None:
    known = steps.dropna(subset=[column])
    return _quotient(known[column].sum(), known["wall_s"].sum())


def _quotient(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else _number(numerator / denominator)


def _excess(measured: float | None, predicted: float | None) -> float | None:
    ratio = _quotient(measured, predicted)
    return None if ratio is None else ratio - 1


def _hidden(comm_s: float | None, waiting: Waiting | None) -> float | None:
    """Time in a step in which transfers overlap computation; None if waiting cannot be separated."""
    if comm_s is None or waiting is None:
        return None
    return max(0.0, comm_s - float(waiting.transfer_s.median()))


def _number(value: Any) -> float | None:
    """A plain float; None for pandas' "no figure"."""
    return float(value) if math.isfinite(value) else None


def _interval(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _floats(series: pd.Series[float]) -> Floats:
    return np.asarray(series, dtype=np.float64)
