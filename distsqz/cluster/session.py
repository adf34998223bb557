"""A session on the driver: workers train in the background, and their records are collected meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import psutil
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsqz.cluster.collector import Collector, Delivery
from distsqz.cluster.hosts import host_ports
from distsqz.cluster.options import REPORTING_RESERVE_S, SessionOptions
from distsqz.cluster.priority import lower_priority
from distsqz.cluster.ray_cluster import ray_cluster
from distsqz.cluster.servers import check_servers_fit
from distsqz.cluster.supervisor import Supervisor
from distsqz.cluster.trial import try_on_worker
from distsqz.errors import RunError
from distsqz.interrupts import noted_interrupts
from distsqz.metering.schema import Record
from distsqz.training.session import SessionPlan

POLL_S = 1.0
LEAVING_S = 10.0
"""Seconds that stopped training may take to end its workers and servers."""


class Recorder(Protocol):
    """Stores what a session records; a run directory is one implementation."""

    def __enter__(self) -> Self:
        """Starts recording."""

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Records how the session ended. It may be called twice."""

    def append(self, table: str, records: Iterable[Record]) -> None:
        """Appends records to a table."""

    def flush(self) -> None:
        """Writes all appended records to disk."""

    def describe_cell(self, cell: str, facts: Mapping[str, Any]) -> None:
        """Stores facts about a cell."""

    def save_checkpoint(self, cell: str, step: int, checkpoint: bytes) -> None:
        """Stores the content of a checkpoint file."""


Watch = Callable[[Delivery], None]
"""Called with everything received since the last call, to show progress."""


def run_session(plan: SessionPlan, options: SessionOptions, recorder: Recorder, watch: Watch) -> None:
    """Starts or joins Ray, trains the cells of a plan on its workers and records everything.

    Args:
        plan: the session.
        options: the workers, and the Ray that they run on.
        recorder: receives records, facts and checkpoints.
        watch: shows progress.

    Raises:
        RequestError: Ray cannot be joined or started, or has too few resources for the workers.
        RunError: training failed; the error names host, rank and step.
    """
    servers = plan.server.shards if plan.server else 0
    with (
        _ray_for(plan, options) as embedded,
        recorder,  # the outcome is written before Ray stops, which may end this process too
    ):
        if plan.server:
            cpus = int(ray.cluster_resources().get("CPU", 0))
            check_servers_fit(plan.server.placement, servers, options.workers, len(host_ports()), cpus)
        on_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        collector = Collector.options(scheduling_strategy=on_driver).remote()  # type: ignore[attr-defined]
        pids: set[int] = set()

        def take() -> None:
            delivery: Delivery = ray.get(collector.take.remote())
            pids.update(delivery.pids)
            if embedded and delivery.pids and len(pids) == options.workers + servers:
                lower_priority(psutil.Process().children(recursive=True), pids)
            _record(delivery, recorder)
            watch(delivery)

        timeout_s = options.collective_timeout_s - REPORTING_RESERVE_S
        stop = threading.Event()
        supervisor = Supervisor(
            plan, options.workers, options.gpus, timeout_s, options.restarts, collector, stop
        )
        training = _Background(supervisor.run)
        with noted_interrupts() as interrupted:
            try:
                while training.is_alive() and not interrupted.is_set():
                    training.join(POLL_S)
                    take()
            finally:  # also if nothing more can be recorded, for example on a full disk
                # A thread that waits for Ray while Ray shuts down could end this process.
                stop.set()
                training.join(LEAVING_S)
            take()
        if interrupted.is_set():
            raise KeyboardInterrupt
        if isinstance(training.error, RunError):
            raise training.error
        if training.error:
            reason = (str(training.error).splitlines() or [type(training.error).__name__])[0]
            raise RunError(reason) from training.error


@contextlib.contextmanager
def _ray_for(plan: SessionPlan, options: SessionOptions) -> Iterator[bool]:
    """Joins or starts a Ray that can train the plan's models; yields whether it is embedded.

    Raises:
        RequestError: Ray cannot be joined or started, or a model cannot be trained on its GPUs.
    """
    with ray_cluster(options.address, options.workers, options.gpus) as embedded:
        if options.gpus and not torch.cuda.is_available():
            try_on_worker(plan)  # this host has no GPU on which the models could be tried before
        yield embedded


class _Background(threading.Thread):
    """Runs a call in a thread and stores its exception. The main thread remains free for Ctrl-C."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error


def _record(delivery: Delivery, recorder: Recorder) -> None:
    for cell, facts in delivery.facts.items():
        recorder.describe_cell(cell, facts)
    for table, records in delivery.records.items():
        recorder.append(table, records)
    for cell, step, checkpoint in delivery.checkpoints:
        recorder.save_checkpoint(cell, step, checkpoint)
    recorder.flush()
