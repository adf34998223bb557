"""A session's workers as Ray actors of our own, around a parameter server: what dies is started again.

Where workers make their steps together, all go back to the last checkpoint; where they do not, one that dies
is replaced and the others go on. A server that dies sends everyone back to the last checkpoint.
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

from distsqz.cell_facts import Restarts, ServerMemory
from distsqz.cluster.collector import CollectorOutbox
from distsqz.cluster.failures import PARTING_S, Failure, Roll, explain, failure_of
from distsqz.cluster.hosts import emulated_rates_by_host, this_host
from distsqz.cluster.interfaces import metered_interface
from distsqz.cluster.priority import come_forward, step_aside
from distsqz.cluster.ray_cluster import node_addresses
from distsqz.cluster.servers import RayServers, start_servers
from distsqz.cluster.worker_env import KEEP_FREED_MEMORY, use_node_interface
from distsqz.errors import RunError
from distsqz.metering.cores import cores_of_this_host
from distsqz.metering.wire import LAB_VARIABLE
from distsqz.sync.pair import SILENCE_S, StoreAddress, open_store
from distsqz.theory.placement import Placement
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.directory import enter_directory
from distsqz.training.replica import Replica
from distsqz.training.session import SessionPlan, run_session

START_TIMEOUT_S = 120.0
"""Within which Ray has to find a place for a worker and start it."""

POLL_S = 0.5
NODE_ID_LABEL = "ray.io/node-id"


class WorkersLostError(Exception):
    """Workers that ended without a word."""

    def __init__(self, worker_failures: dict[int, Exception]) -> None:
        super().__init__("; ".join(f"rank {rank}: {error}" for rank, error in worker_failures.items()))
        self.worker_failures = worker_failures


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a worker runs."""

    node: str
    host: str
    address: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a worker is to do."""

    plan: list[Any]
    """A reference to the session's plan."""
    rank: int
    places: Sequence[_Place]
    """By rank."""
    servers: Sequence[str]
    meeting: StoreAddress | None
    """Where the ranks form a group; None for one that takes another's place, who are at work already."""
    attempt: int
    timeout_s: float


@ray.remote(num_cpus=1)
class WorkerActor:
    """One worker."""

    def __init__(self, collector: Any) -> None:
        come_forward()
        self._collector = collector

    def introduce(self) -> _Place:
        """Where it runs."""
        return _Place(
            node=ray.get_runtime_context().get_node_id(),
            host=this_host(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
        )

    def work(self, task: _Task) -> Failure | None:
        """Trains to the end, or tells why not."""
        outbox = CollectorOutbox(self._collector)
        try:
            (reference,) = task.plan
            plan = ray.get(reference)
            enter_directory(plan.directory)
            _join_group(task)
            servers = RayServers(task.servers)
            run_session(plan, _replica(task, servers), outbox, servers)
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


def _replica(task: _Task, servers: RayServers) -> Replica:
    here = task.places[task.rank]
    addresses = [place.address for place in task.places]
    pids = {place.pid for place in task.places if place.address == here.address}
    everywhere = [*addresses, *(place.store.host for place in servers.places)]
    if LAB_VARIABLE in os.environ and task.rank == addresses.index(here.address):
        step_aside(psutil.process_iter(), pids | set(servers.pids))
    return Replica(
        rank=task.rank,
        placement=Placement(
            workers=[place.host for place in task.places], shards=[place.host for place in servers.places]
        ),
        cores=cores_of_this_host(),
        device="cpu",
        address=here.address,
        interface=metered_interface(here.address, everywhere),
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
    """Kept, or the workers would have nowhere to meet."""
    roll: Roll
    """Of Ray's nodes."""
    running: dict[Any, int] = field(default_factory=dict)
    """Reference to a worker's work -> its rank."""

    def take_cut_off(self) -> list[int]:
        """Ranks at work on hosts that have stopped answering; they are waited for no longer."""
        missing = self.roll.missing()
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
    """Runs a session through a parameter server and starts again what dies."""

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
            plan: of the session; every cell of it has a parameter server.
            workers: how many.
            timeout_s: how long a peer may take to answer.
            restarts: how often something that died is started again.
            collector: takes records and checkpoints.
            env: environment variables for workers and servers.
            stop: set when nothing more is to be started.
        """
        self._stop = stop
        self._plan = plan
        self._workers = workers
        self._timeout_s = timeout_s
        self._restarts_left = restarts
        self._collector = collector
        self._env = env
        self._attempt = 0
        self._told: list[dict[str, Any]] = []

    def run(self) -> None:
        """Returns when every worker has trained to the end.

        Raises:
            RunError: a worker failed by itself, or more died than may be started again.
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
        roll = Roll(node_addresses(), SILENCE_S)
        group = _Group(plan, workers, places, names, servers, store, roll)
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
        """Waits for the workers; replaces those that are lost, where the others can do without them."""
        # Several cells meet between their blocks.
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
            said, lost = self._outcome(group, ended)
            if not said and not lost:
                continue
            own = [failure for failure in said if not failure.of_communication]
            if not own and replaceable and self._servers_answer(group):
                for rank, reason in [*lost.items(), *((each.rank, each) for each in said)]:
                    self._replace(group, rank, reason)
                continue
            time.sleep(PARTING_S)  # what others have to tell
            ended, _ = ray.wait(list(group.running), num_returns=max(1, len(group.running)), timeout=0)
            more_said, more_lost = self._outcome(group, ended)
            said, lost = said + more_said, lost | more_lost
            error = explain(
                WorkersLostError(lost) if lost else None, said, [place.host for place in group.places]
            )
            own = [failure for failure in said if not failure.of_communication]
            if own or not self._restarts_left:
                raise error
            raise _StartAgainError(error, max((failure.step or 0 for failure in said), default=None))

    def _outcome(self, group: _Group, ended: Sequence[Any]) -> tuple[list[Failure], dict[int, Exception]]:
        """Of workers that have ended: what they said, and those that said nothing."""
        said, lost = [], {}
        for reference in ended:
            rank = group.running.pop(reference)
            try:
                failure = ray.get(reference)
            except RayActorError as error:
                lost[rank] = error
            else:
                said += [failure] if failure else []
        return said, lost

    def _servers_answer(self, group: _Group) -> bool:
        try:
            ray.get([server.introduce.remote() for server in group.servers], timeout=PARTING_S)
        except RayError:
            return False
        return True

    def _replace(self, group: _Group, rank: int, reason: Any, not_on: str | None = None) -> None:
        """Starts another worker in a rank's place; `not_on` a node that Ray wrongly takes for alive."""
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
        self._tell(
            f"rank {rank} on {host} was lost ({text}); replaced on {place.host} after "
            f"{time.monotonic() - lost_at:.1f} s, the others went on; it makes its step under way again",
            rank=rank,
        )

    def _go_back(self, lost: _StartAgainError) -> None:
        """Prepares the next attempt, from the last checkpoint if there is one."""
        self._restarts_left -= 1
        self._attempt += 1
        content = ray.get(self._collector.newest_checkpoint.remote(self._plan.cells[0].name))
        if content and len(self._plan.cells) == 1:
            state = Checkpoint(**torch.load(io.BytesIO(content), weights_only=True))
            self._plan = replace(self._plan, resume=state)
        step = self._plan.resume.step if self._plan.resume else 0
        where = f"the checkpoint of step {step}" if self._plan.resume else "the beginning: no checkpoint yet"
        repeated = "" if lost.step is None else f", {max(0, lost.step - step)} steps are repeated"
        self._tell(f"{lost.error}; all start again from {where}{repeated}", rank=lost.error.rank)

    def _tell(self, text: str, rank: int | None) -> None:
        print(text, file=sys.stderr)
        self._told.append({"attempt": self._attempt, "rank": rank, "text": text})
        for cell in self._plan.cells:
            self._collector.describe.remote(cell.name, Restarts(restarted=self._told))


class _StartAgainError(Exception):
    """All have to go back to the last checkpoint."""

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
    """Runs a session whose cells all train through a parameter server.

    Raises:
        RunError: it failed.
    """
    Supervisor(plan, workers, timeout_s, restarts, collector, KEEP_FREED_MEMORY, stop).run()
