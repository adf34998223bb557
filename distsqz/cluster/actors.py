"""Workers of a parameter server as Ray actors, which are restarted after a failure.

If workers make their steps together, a failure sends all of them back to the last checkpoint. Otherwise the
failed worker is replaced and the others continue. A failed server sends all workers back in any case.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import psutil
import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from torch.distributed.distributed_c10d import PrefixStore

from distsqz.cluster.collector import CollectorOutbox
from distsqz.cluster.failures import REPORTING_S, Failure, Heartbeats, explain, failure_of
from distsqz.cluster.hosts import emulated_rates_by_host, this_host
from distsqz.cluster.interfaces import metered_interface
from distsqz.cluster.priority import lower_priority, raise_priority
from distsqz.cluster.ray_cluster import node_addresses
from distsqz.cluster.servers import RayServers, start_servers
from distsqz.cluster.worker_env import KEEP_FREED_MEMORY, use_node_interface
from distsqz.errors import RunError
from distsqz.metering.wire import LAB_VARIABLE
from distsqz.runs.cell_facts import Restarts, ServerMemory
from distsqz.runs.cores import cores_of_this_host
from distsqz.strategies.parameter_server.channel import SILENCE_S, StoreAddress, open_store
from distsqz.theory.placement import Placement
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.directory import enter_directory
from distsqz.training.replica import Replica
from distsqz.training.session import SessionPlan, train_session

START_TIMEOUT_S = 120.0
"""Seconds within which Ray must find a place for a worker and start it."""

POLL_S = 0.5
NODE_ID_LABEL = "ray.io/node-id"


class WorkersLostError(Exception):
    """Workers that ended without reporting a failure."""

    def __init__(self, worker_failures: dict[int, Exception]) -> None:
        super().__init__("; ".join(f"rank {rank}: {error}" for rank, error in worker_failures.items()))
        self.worker_failures = worker_failures


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The host and process of a worker."""

    node: str
    host: str
    address: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The work of one worker."""

    plan: list[Any]
    """Reference to the session's plan, in a list so that Ray does not resolve it."""
    rank: int
    places: Sequence[_Place]
    """Places of all workers, by rank."""
    servers: Sequence[str]
    """Names of the server actors, by shard."""
    meeting: StoreAddress | None
    """Store at which the ranks form a process group; None for a replacement, which joins no group."""
    attempt: int
    timeout_s: float


@ray.remote(num_cpus=1)
class WorkerActor:
    """One worker that trains."""

    def __init__(self, collector: Any) -> None:
        raise_priority()
        self._collector = collector

    def introduce(self) -> _Place:
        """Returns the host and process of the worker."""
        return _Place(
            node=ray.get_runtime_context().get_node_id(),
            host=this_host(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
        )

    def work(self, task: _Task) -> Failure | None:
        """Trains to the end; returns the failure if there is one."""
        outbox = CollectorOutbox(self._collector)
        try:
            (reference,) = task.plan
            plan = ray.get(reference)
            enter_directory(plan.directory)
            _join_group(task)
            servers = RayServers(task.servers)
            train_session(plan, _replica_of_task(task, servers), outbox, servers)
        except Exception as error:
            outbox.close()
            return failure_of(error, task.rank, this_host())
        outbox.close()
        return None


def _join_group(task: _Task) -> None:
    use_node_interface()
    if task.meeting:
        dist.init_process_group(
            "gloo",
            store=PrefixStore(f"group-{task.attempt}", task.meeting.connect()),
            rank=task.rank,
            world_size=len(task.places),
            timeout=timedelta(seconds=task.timeout_s),
        )


def _replica_of_task(task: _Task, servers: RayServers) -> Replica:
    own = task.places[task.rank]
    addresses = [place.address for place in task.places]
    pids = {place.pid for place in task.places if place.address == own.address}
    everywhere = [*addresses, *(place.store.host for place in servers.places)]
    if LAB_VARIABLE in os.environ and task.rank == addresses.index(own.address):
        lower_priority(psutil.process_iter(), pids | set(servers.pids))
    return Replica(
        rank=task.rank,
        placement=Placement(
            workers=[place.host for place in task.places], shards=[place.host for place in servers.places]
        ),
        cores=cores_of_this_host(),
        device="cpu",
        address=own.address,
        interface=metered_interface(own.address, everywhere),
        emulated_rates_bits_per_s=emulated_rates_by_host(),
        timeout_s=task.timeout_s,
        attempt=task.attempt,
        joins=task.meeting is None,
    )


@dataclass
class _Group:
    """The workers and servers of one attempt."""

    plan: list[Any]
    workers: list[Any]
    places: list[_Place]
    server_names: list[str]
    servers: list[Any]
    store: Any
    """Store of the process group. It closes when it is no longer referenced."""
    heartbeats: Heartbeats
    """Heartbeats of Ray's nodes."""
    running: dict[Any, int] = field(default_factory=dict)
    """Ranks by the reference to their work in progress."""

    def take_cut_off(self) -> list[int]:
        """Removes the ranks on hosts that have stopped answering from `running`, and returns them."""
        missing = self.heartbeats.missing()
        lost = {each: rank for each, rank in self.running.items() if self.places[rank].node in missing}
        for reference in lost:
            del self.running[reference]
        return list(lost.values())

    def end(self) -> None:
        """Ends every process."""
        for actor in (*self.workers, *self.servers):
            with contextlib.suppress(RayError, ValueError):
                ray.kill(actor)


class Supervisor:
    """Runs a session with a parameter server, and restarts workers and servers that fail."""

    def __init__(
        self,
        plan: SessionPlan,
        workers: int,
        timeout_s: float,
        restarts: int,
        collector: Any,
        env: dict[str, str],
        stop: threading.Event,
    ) -> None:
        """Prepares to run.

        Args:
            plan: the session; every cell has a parameter server.
            workers: number of workers.
            timeout_s: seconds within which a peer must answer.
            restarts: number of restarts that are allowed.
            collector: actor that receives records and checkpoints.
            env: environment variables of workers and servers.
            stop: event that ends the session and prevents restarts.
        """
        self._stop = stop
        self._plan = plan
        self._workers = workers
        self._timeout_s = timeout_s
        self._restarts_left = restarts
        self._collector = collector
        self._env = env
        self._attempt = 0
        self._restarted: list[dict[str, Any]] = []

    def run(self) -> None:
        """Runs until every worker has trained to the end.

        Raises:
            RunError: a worker reported an error of its own, or no restarts are left.
        """
        while True:
            group = self._start()
            try:
                self._follow(group)
            except _StartAgainError as lost:
                self._go_back(lost)
            else:
                if self._stop.is_set():
                    return
                peaks = ray.get([server.close.remote() for server in group.servers])
                facts = ServerMemory(server_peak_rss_bytes=peaks)
                ray.get([self._collector.describe.remote(cell.name, facts) for cell in self._plan.cells])
                return
            finally:
                group.end()

    def _start(self) -> _Group:
        workers = [self._new_worker() for _ in range(self._workers)]
        try:
            places = ray.get([worker.introduce.remote() for worker in workers], timeout=START_TIMEOUT_S)
        except GetTimeoutError:
            raise RunError(f"Ray did not start the workers within {START_TIMEOUT_S:.0f} s") from None
        plan = [ray.put(self._plan)]
        assert self._plan.server is not None
        names, servers = start_servers(
            self._plan.server,
            [place.node for place in places],
            plan[0],
            self._collector,
            self._env,
            secrets.token_hex(4),
            self._attempt,
        )
        store, meeting = open_store(ray.util.get_node_ip_address())
        heartbeats = Heartbeats(node_addresses(), SILENCE_S)
        group = _Group(plan, workers, places, names, servers, store, heartbeats)
        for rank, worker in enumerate(workers):
            group.running[worker.work.remote(self._task(group, rank, meeting, self._attempt))] = rank
        return group

    def _new_worker(self, not_on: str | None = None) -> Any:
        elsewhere = {"label_selector": {NODE_ID_LABEL: f"!{not_on}"}} if not_on else {}
        return WorkerActor.options(  # type: ignore[attr-defined]
            scheduling_strategy="SPREAD", runtime_env={"env_vars": self._env}, **elsewhere
        ).remote(self._collector)

    def _task(self, group: _Group, rank: int, meeting: StoreAddress | None, attempt: int) -> _Task:
        return _Task(
            plan=group.plan,
            rank=rank,
            places=group.places,
            servers=group.server_names,
            meeting=meeting,
            attempt=attempt,
            timeout_s=self._timeout_s,
        )

    def _follow(self, group: _Group) -> None:
        """Waits for the workers, and replaces lost ones if the others can continue without them."""
        # Workers of several cells wait for each other between blocks.
        replaceable = len(self._plan.cells) == 1 and not self._plan.cells[0].together
        while group.running and not self._stop.is_set():
            ended, _ = ray.wait(list(group.running), timeout=POLL_S)
            if replaceable:
                for rank in group.take_cut_off():
                    silence = f"its host has not answered for {SILENCE_S} s"
                    self._replace(group, rank, silence, not_on=group.places[rank].node)
            ended = [each for each in ended if each in group.running]
            if not ended:
                continue
            reports, lost = self._outcome(group, ended)
            if not reports and not lost:
                continue
            own = [failure for failure in reports if not failure.of_communication]
            if not own and replaceable and self._servers_answer(group):
                for rank, reason in [*lost.items(), *((each.rank, each) for each in reports)]:
                    self._replace(group, rank, reason)
                continue
            time.sleep(REPORTING_S)  # further failures are reported meanwhile
            ended, _ = ray.wait(list(group.running), num_returns=max(1, len(group.running)), timeout=0)
            more_reports, more_lost = self._outcome(group, ended)
            reports, lost = reports + more_reports, lost | more_lost
            error = explain(
                WorkersLostError(lost) if lost else None, reports, [place.host for place in group.places]
            )
            own = [failure for failure in reports if not failure.of_communication]
            if own or not self._restarts_left:
                raise error
            raise _StartAgainError(error, max((failure.step or 0 for failure in reports), default=None))

    def _outcome(self, group: _Group, ended: Sequence[Any]) -> tuple[list[Failure], dict[int, Exception]]:
        """Failures reported by the workers that have ended, and the workers that ended without a report."""
        reports, lost = [], {}
        for reference in ended:
            rank = group.running.pop(reference)
            try:
                failure = ray.get(reference)
            except RayActorError as error:
                lost[rank] = error
            else:
                reports += [failure] if failure else []
        return reports, lost

    def _servers_answer(self, group: _Group) -> bool:
        try:
            ray.get([server.introduce.remote() for server in group.servers], timeout=REPORTING_S)
        except RayError:
            return False
        return True

    def _replace(self, group: _Group, rank: int, reason: Any, not_on: str | None = None) -> None:
        """Starts a replacement for a rank, not on the node `not_on`, which Ray wrongly considers alive."""
        lost_at = time.monotonic()
        text = reason.text if isinstance(reason, Failure) else (str(reason).splitlines() or ["died"])[0]
        if not self._restarts_left:
            raise RunError(f"the worker was lost ({text})", host=group.places[rank].host, rank=rank)
        self._restarts_left -= 1
        self._attempt += 1
        host = group.places[rank].host
        with contextlib.suppress(RayError, ValueError):
            ray.kill(group.workers[rank])
        worker = self._new_worker(not_on)
        try:
            place = ray.get(worker.introduce.remote(), timeout=START_TIMEOUT_S)
        except (GetTimeoutError, RayActorError):
            raise RunError(f"no place for another worker ({text})", host=host, rank=rank) from None
        group.workers[rank] = worker
        group.places[rank] = place
        group.running[worker.work.remote(self._task(group, rank, None, self._attempt))] = rank
        self._announce(
            f"rank {rank} on {host} was lost ({text}); replaced on {place.host} after "
            f"{time.monotonic() - lost_at:.1f} s, the others went on; it makes its step under way again",
            rank=rank,
        )

    def _go_back(self, lost: _StartAgainError) -> None:
        """Prepares the next attempt, which resumes from the last checkpoint if there is one."""
        self._restarts_left -= 1
        self._attempt += 1
        content = ray.get(self._collector.newest_checkpoint.remote(self._plan.cells[0].name))
        if content and len(self._plan.cells) == 1:
            state = Checkpoint(**torch.load(io.BytesIO(content), weights_only=True))
            self._plan = replace(self._plan, resume=state)
        step = self._plan.resume.step if self._plan.resume else 0
        where = f"the checkpoint of step {step}" if self._plan.resume else "the beginning: no checkpoint yet"
        repeated = "" if lost.step is None else f", {max(0, lost.step - step)} steps are repeated"
        self._announce(f"{lost.error}; all start again from {where}{repeated}", rank=lost.error.rank)

    def _announce(self, text: str, rank: int | None) -> None:
        print(text, file=sys.stderr)
        self._restarted.append({"attempt": self._attempt, "rank": rank, "text": text})
        for cell in self._plan.cells:
            self._collector.describe.remote(cell.name, Restarts(restarted=self._restarted))


class _StartAgainError(Exception):
    """All workers must go back to the last checkpoint."""

    def __init__(self, error: RunError, step: int | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.step = step


def train_through_servers(
    plan: SessionPlan,
    workers: int,
    timeout_s: float,
    restarts: int,
    collector: Any,
    stop: threading.Event,
) -> None:
    """Runs a session whose cells all train with a parameter server.

    Args:
        plan: the session.
        workers: number of workers.
        timeout_s: seconds within which a peer must answer.
        restarts: number of restarts that are allowed.
        collector: actor that receives records and checkpoints.
        stop: event that ends the session.

    Raises:
        RunError: the session failed.
    """
    Supervisor(plan, workers, timeout_s, restarts, collector, KEEP_FREED_MEMORY, stop).run()
