"""A driver that takes a million transfers from a real collector into a run directory, and prints the costs.

Run as a script: RUNS_DIRECTORY -> a JSON object on stdout.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from distsqz.cluster.collector import Collector, CollectorOutbox, Delivery
from distsqz.cluster.ray_cluster import ray_cluster
from distsqz.metering.schema import READINGS, TABLES, PeerRecord, StepRecord, TransferRecord
from distsqz.runs.writer import COMPLETE, RunWriter

RANKS, BUCKETS, STEPS_A_FLUSH, FLUSHES = 2, 25, 40, 500
PAYLOAD_BYTES = 4_993_696
CELL = {
    "cell": "squeezenet-ddp-w2",
    "model": "squeezenet",
    "strategy": "ddp",
    "world_size": RANKS,
    "payload_bytes": PAYLOAD_BYTES,
    "steps": STEPS_A_FLUSH * FLUSHES,
    "warmup_steps": 0,
    "block_steps": 50,
    "hosts": ["a", "b"],
}
START_NS = 1_790_000_000_000_000_000


def records_of(rank: int, step: int) -> tuple[StepRecord, list[TransferRecord], PeerRecord]:
    """A step of 100 ms on one rank."""
    start_ns = START_NS + step * 10**8
    sent = PAYLOAD_BYTES // BUCKETS * BUCKETS
    readings = dict.fromkeys(READINGS) | {
        name: sent
        for name in READINGS
        if name.startswith(("logical", "predicted", "tcp")) and "local" not in name and "retrans" not in name
    }
    made = StepRecord(
        cell=CELL["cell"], model=CELL["model"], strategy=CELL["strategy"], world_size=RANKS, rank=rank,
        host=CELL["hosts"][rank], attempt=0, step=step, warmup=False, t_start_ns=start_ns, wall_s=0.1,
        data_s=0.01, forward_s=0.02, backward_s=0.03, exposed_comm_s=0.03, optimizer_s=0.01, other_s=0.0,
        samples=16, loss=6.9, staleness=0, readings=readings,
    )  # fmt: skip
    transfers = [
        TransferRecord(
            cell=CELL["cell"], rank=rank, step=step, op="all_reduce", bucket=bucket, peer=None,
            payload_bytes=PAYLOAD_BYTES // BUCKETS, t_launch_ns=start_ns + bucket * 10**6,
            t_done_ns=start_ns + (bucket + 20) * 10**6,
        )
        for bucket in range(BUCKETS)
    ]  # fmt: skip
    peer = PeerRecord(
        cell=CELL["cell"], rank=rank, step=step, peer="127.0.0.1", peer_rank=1 - rank, same_host=False,
        tx_bytes=sent, rx_bytes=sent, retrans_bytes=0, rtt_us=50,
    )  # fmt: skip
    return made, transfers, peer


@ray.remote(num_cpus=0)
class Worker:
    """Makes the records of both ranks, and sends them through the workers' own outbox."""

    def __init__(self, collector: Any) -> None:
        self._outbox = CollectorOutbox(collector)
        self._step = 0

    def make(self) -> None:
        for step in range(self._step, self._step + STEPS_A_FLUSH):
            for rank in range(RANKS):
                made, transfers, peer = records_of(rank, step)
                self._outbox.put({"steps": [made], "transfers": transfers, "peers": [peer]})
        self._step += STEPS_A_FLUSH
        ray.get(self._outbox.send())


def main(runs: Path) -> dict[str, Any]:
    """Flush times in seconds, and how the memory of this process grew, in bytes."""
    flushes_s, process = [], psutil.Process()
    with ray_cluster("local", 1, False):
        collector = Collector.remote()
        worker = Worker.remote(collector)
        with RunWriter.create(runs, "million", [], {}, [CELL], tables=TABLES) as writer:
            before_bytes = process.memory_info().rss
            for _ in range(FLUSHES):
                ray.get(worker.make.remote())
                delivery: Delivery = ray.get(collector.take.remote())
                for table, records in delivery.records.items():
                    writer.append(table, records)
                start = time.perf_counter()
                writer.flush()
                flushes_s.append(time.perf_counter() - start)
            after_bytes = process.memory_info().rss
            start = time.perf_counter()
            writer.finish(COMPLETE)
    return {
        "run": str(writer.path),
        "flushes_s": flushes_s,
        "growth_bytes": after_bytes - before_bytes,
        "peak_growth_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes,
        "finish_s": time.perf_counter() - start,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
