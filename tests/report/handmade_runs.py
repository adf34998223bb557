"""Run directories made by hand, through the writer that runs use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distsqz.metering.schema import (
    READINGS,
    RECORDS,
    TABLES,
    EvaluationRecord,
    LinkRecord,
    Record,
    StepRecord,
    TransferRecord,
    UpdateRecord,
)
from distsqz.runs.writer import COMPLETE, RUNNING, RunWriter

SQUEEZENET_BYTES, ALEXNET_BYTES = 4_993_696, 244_403_360
START_NS = 1_790_000_000_000_000_000


def cell(model: str = "squeezenet", **entries: Any) -> dict[str, Any]:
    """A cell's entry in run.json."""
    payload_bytes = {"squeezenet": SQUEEZENET_BYTES, "alexnet": ALEXNET_BYTES}[model]
    world_size = entries.get("world_size", 2)
    return {
        "cell": f"{model}-ddp-w{world_size}",
        "model": model,
        "strategy": "ddp",
        "world_size": world_size,
        "params": payload_bytes // 4,
        "payload_bytes": payload_bytes,
        "batch_size": 16,
        "block_steps": 1,
        "steps": 4,
        "warmup_steps": 1,
        "threads_per_worker": 1,
        "interface": "eth0",
        "hosts": ["a", "b", "c", "d"][:world_size],
        "cores_by_host": {"a": 2, "b": 2, "c": 2, "d": 2},
        **entries,
    }


def step(of: dict[str, Any], rank: int, step: int, wall_s: float = 1.0, **columns: Any) -> StepRecord:
    """One step of a rank: half of it computation, 0.4 of it exposed communication, unless
    `columns` say otherwise; null where an instrument is not named here.
    """
    record: dict[str, Any] = {
        "cell": of["cell"],
        "model": of["model"],
        "strategy": of["strategy"],
        "world_size": of["world_size"],
        "rank": rank,
        "host": of["hosts"][rank],
        "attempt": 0,
        "step": step,
        "warmup": step < of["warmup_steps"],
        "t_start_ns": START_NS + step * 10**9,
        "wall_s": wall_s,
        "data_s": 0.05 * wall_s,
        "forward_s": 0.15 * wall_s,
        "backward_s": 0.25 * wall_s,
        "exposed_comm_s": 0.4 * wall_s,
        "optimizer_s": 0.05 * wall_s,
        "other_s": 0.1 * wall_s,
        "sched_wait_s": 0.01 * wall_s,
        "samples": of["batch_size"],
        "loss": 6.9,
        "logical_tx_bytes": of["payload_bytes"],
        "logical_rx_bytes": of["payload_bytes"],
        "predicted_tx_bytes": of["payload_bytes"],
        "predicted_rx_bytes": of["payload_bytes"],
        "predicted_local_tx_bytes": 0,
        "predicted_local_rx_bytes": 0,
        "tcp_tx_bytes": of["payload_bytes"] + 500,
        "tcp_rx_bytes": of["payload_bytes"] + 500,
        "tcp_local_tx_bytes": 0,
        "tcp_local_rx_bytes": 0,
        "tcp_retrans_bytes": 0,
        "queue_dropped_packets": 0,
        "nic_tx_bytes": of["payload_bytes"] + 9000,
        "nic_rx_bytes": of["payload_bytes"] + 9000,
        "staleness": 0,
    }
    record |= columns
    readings = {name: record.pop(name, None) for name in READINGS}
    return StepRecord(**record, readings=readings)


def steps(of: dict[str, Any], walls_s: Iterable[float], **columns: Any) -> list[StepRecord]:
    """The measured steps of all ranks, and slow warm-up steps before them."""
    walls = [100.0] * of["warmup_steps"] + list(walls_s)
    return [
        step(of, rank, index, wall_s, **columns)
        for index, wall_s in enumerate(walls)
        for rank in range(of["world_size"])
    ]


def transfer(
    of: dict[str, Any],
    rank: int,
    step: int,
    launch_s: float,
    done_s: float | None,
    bucket: int = 0,
    buckets: int = 1,
) -> TransferRecord:
    """One of a cell's `buckets` in flight from `launch_s` to `done_s` after its step's start; with servers a
    push to one of them.
    """
    start_ns = START_NS + step * 10**9
    servers = of.get("servers")
    return TransferRecord(
        cell=of["cell"],
        rank=rank,
        step=step,
        op="push" if servers else "all_reduce",
        bucket=bucket,
        peer=f"shard {bucket % servers}" if servers else None,
        payload_bytes=of["payload_bytes"] // buckets,
        t_launch_ns=start_ns + round(launch_s * 1e9),
        t_done_ns=None if done_s is None else start_ns + round(done_s * 1e9),
    )


def push(of: dict[str, Any], rank: int, step: int, bucket: int, payload_bytes: int) -> TransferRecord:
    """A chunk that a worker sends to the shard that owns it: chunks are dealt to the shards in turn."""
    return TransferRecord(
        cell=of["cell"],
        rank=rank,
        step=step,
        op="push",
        bucket=bucket,
        peer=f"shard {bucket % of['servers']}",
        payload_bytes=payload_bytes,
        t_launch_ns=START_NS + step * 10**9,
        t_done_ns=START_NS + step * 10**9 + 10**8,
    )


def update(of: dict[str, Any], rank: int, step: int, bucket: int, **columns: Any) -> UpdateRecord:
    """What the shard did with it."""
    record: dict[str, Any] = {
        "cell": of["cell"],
        "shard": bucket % of["servers"],
        "host": "a",
        "rank": rank,
        "step": step,
        "version": step,
        "attempt": 0,
        "bucket": bucket,
        "staleness": 0,
        "dropped": False,
        "t_arrive_ns": START_NS + step * 10**9,
        "queue_wait_s": 0.0,
        "service_s": 1e-3,
    }
    return UpdateRecord(**record | columns)


def evaluation(of: dict[str, Any], step: int, accuracy: float) -> EvaluationRecord:
    """An evaluation after so many steps."""
    return EvaluationRecord(
        cell=of["cell"], step=step, samples_seen=step * 32, bytes_so_far=None, accuracy=accuracy, loss=1.0
    )


def link(rank: int, peer_rank: int, goodput_bytes_per_s: float, rtt_us: int = 100) -> LinkRecord:
    """What the path from one rank's host to another's carried."""
    return LinkRecord(
        rank=rank,
        host=f"h{rank}",
        peer_rank=peer_rank,
        peer_host=f"h{peer_rank}",
        goodput_bytes_per_s=goodput_bytes_per_s,
        rtt_us=rtt_us,
    )


def write_run(
    root: Path,
    cells: Iterable[dict[str, Any]],
    records: Iterable[Record] = (),
    status: str = COMPLETE,
    error: dict[str, Any] | None = None,
) -> Path:
    """Writes a run under `root` and gives its directory; a running one is left as its writer would."""
    run = RunWriter.create(root, "test", ["test"], {}, cells, tables=TABLES)
    tables = {record: name for name, record in RECORDS.items()}
    for record in records:
        run.append(tables[type(record)], [record])
    if status == RUNNING:
        run.flush()
    else:
        run.finish(status, error)
    return run.path
