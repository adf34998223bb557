"""A session from the start of its workers and servers to their end, with restarts after failures.

If workers make their steps together, a failure sends all of them back to the last checkpoint. Otherwise the
failed worker is replaced and the others continue. A failed server sends all workers back in any case.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from distsqz.cluster.failures import REPORTING_S, Failure, Heartbeats, explain, hosts_without_answer
from distsqz.cluster.hosts import host_ports
from distsqz.cluster.ray_cluster import node_addresses
from distsqz.cluster.servers import start_servers
from distsqz.cluster.worker_actor import WorkerTask
from distsqz.cluster.worker_env import KEEP_FREED_MEMORY
from distsqz.cluster.worker_group import StoppedError, WorkerGroup
from distsqz.errors import RunError
from distsqz.runs.cell_facts import Restarts, ServerMemory
from distsqz.strategies.parameter_server.channel import SILENCE_S, StoreAddress, open_store
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.session import SessionPlan

POLL_S = 0.5


RESTARTS = 3
"""Number of restarts by default, where little is lost by one."""


def default_restarts(plan: SessionPlan) -> int:
    """Number of restarts of a session by default: none where every step would be made again."""
    served = plan.server and all(cell.server or cell.alone for cell in plan.cells)
    saved = any(cell.options.checkpoint_every for cell in plan.cells)
    return RESTARTS if served or saved else 0


@dataclass
class _Attempt:
    """The workers and servers of one attempt."""

    plan: list[Any]
    """Reference to the session's plan, in a list so that Ray does not resolve it."""
    workers: WorkerGroup
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
        lost = {
            each: rank for each, rank in self.running.items() if self.workers.places[rank].node in missing
        }
        for reference in lost:
            del self.running[reference]
        return list(lost.values())

    def take_outcome(self, ended: Sequence[Any]) -> tuple[list[Failure], dict[int, Exception]]:
        """Removes ended work from `running`; returns failures, and the ranks that ended without a report."""
        reports, lost = [], {}
        for reference in ended:
            rank = self.running.pop(reference)
            try:
                failure = ray.get(reference)
            except (RayActorError, OutOfMemoryError) as error:
                lost[rank] = error
            else:
                reports += [failure] if failure else []
        return reports, lost

    def servers_answer(self) -> bool:
        """Whether every server answers."""
        try:
            ray.get([server.introduce.remote() for server in self.servers], timeout=REPORTING_S)
        except RayError:
            return False
        return True


class _StartAgainError(Exception):
    """All workers must go back to the last checkpoint."""

    def __init__(self, error: RunError, step: int | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.step = step


class Supervisor:
    """Runs a session, and restarts workers and servers that fail."""

    def __init__(
        self,
        plan: SessionPlan,
        workers: int,
        gpus: bool,
        timeout_s: float,
        restarts: int | None,
        collector: Any,
        stop: threading.Event,
    ) -> None:
        """Prepares to run.

        Args:
            plan: the session.
            workers: number of workers.
            gpus: whether each worker trains on a GPU.
            timeout_s: seconds within which a peer must answer.
            restarts: number of restarts that are allowed; None for `default_restarts`.
            collector: actor that receives records and checkpoints.
            stop: event that ends the session and prevents restarts.
        """
        self._plan = plan
        self._workers = workers
        self._gpus = gpus
        self._timeout_s = timeout_s
        self._collector = collector
        self._stop = stop
        self._restarts_left = default_restarts(plan) if restarts is None else restarts
        self._attempt = 0
        self._restarted: list[dict[str, Any]] = []
        self._hosts = host_ports()

    def run(self) -> None:
        """Runs until every worker has trained to the end, or until the session is stopped.

        Raises:
            RunError: a worker reported an error of its own, or no restarts are left.
        """
        ended = False
        while not ended:
            try:
                with self._started() as attempt:
                    self._follow(attempt)
                    if not self._stop.is_set():
                        self._describe_servers(attempt)
                ended = True
            except _StartAgainError as lost:
                self._go_back(lost)
            except StoppedError:
                ended = True

    @contextlib.contextmanager
    def _started(self) -> Iterator[_Attempt]:
        """Starts workers and servers, which end with the context."""
        with contextlib.ExitStack() as ending:
            workers = WorkerGroup(self._workers, self._gpus, self._collector, KEEP_FREED_MEMORY, self._stop)
            ending.callback(workers.end)
            plan = [ray.put(self._plan)]
            names, servers = self._start_servers(workers.nodes(), plan[0])
            ending.callback(_end, servers)
            workers.assign_ranks()
            store, meeting = open_store(ray.util.get_node_ip_address())
            heartbeats = Heartbeats(node_addresses(), SILENCE_S)
            attempt = _Attempt(plan, workers, names, servers, store, heartbeats)
            for rank in range(self._workers):
                self._set_to_work(attempt, rank, meeting)
            yield attempt

    def _start_servers(self, worker_nodes: Sequence[str], plan: Any) -> tuple[list[str], list[Any]]:
        if self._plan.server is None:
            return [], []
        return start_servers(
            self._plan.server,
            worker_nodes,
            plan,
            self._collector,
            KEEP_FREED_MEMORY,
            secrets.token_hex(4),
            self._attempt,
        )

    def _set_to_work(self, attempt: _Attempt, rank: int, meeting: StoreAddress | None) -> None:
        task = WorkerTask(
            plan=attempt.plan,
            rank=rank,
            places=attempt.workers.places,
            gpus=self._gpus,
            servers=attempt.server_names,
            meeting=meeting,
            attempt=self._attempt,
            timeout_s=self._timeout_s,
        )
        attempt.running[attempt.workers.actor(rank).work.remote(task)] = rank

    def _follow(self, attempt: _Attempt) -> None:
        """Waits for the workers, and replaces lost ones if the others can continue without them.

        Raises:
            RunError: the session failed.
            _StartAgainError: all workers must go back to the last checkpoint.
        """
        # Workers of several cells wait for each other between blocks.
        replaceable = len(self._plan.cells) == 1 and not self._plan.cells[0].together
        while attempt.running and not self._stop.is_set():
            ended, _ = ray.wait(list(attempt.running), timeout=POLL_S)
            if replaceable:
                for rank in attempt.take_cut_off():
                    silence = f"its host has not answered for {SILENCE_S} s"
                    self._replace(attempt, rank, silence, not_on=attempt.workers.places[rank].node)
            reports, lost = attempt.take_outcome([each for each in ended if each in attempt.running])
            if not reports and not lost:
                continue
            own = [failure for failure in reports if not failure.of_communication]
            if not own and replaceable and attempt.servers_answer():
                for rank, reason in [*lost.items(), *((each.rank, each) for each in reports)]:
                    self._replace(attempt, rank, reason)
                continue
            self._fail(attempt, reports, lost)

    def _fail(self, attempt: _Attempt, reports: list[Failure], lost: dict[int, Exception]) -> None:
        """Gathers further failures, and raises what they have come to.

        Raises:
            RunError: a worker reported an error of its own, or no restarts are left.
            _StartAgainError: all workers must go back to the last checkpoint.
        """
        running = list(attempt.running)
        ended, _ = ray.wait(running, num_returns=len(running), timeout=REPORTING_S) if running else ([], [])
        more_reports, more_lost = attempt.take_outcome(ended)
        reports, lost = reports + more_reports, lost | more_lost
        hosts = [place.host for place in attempt.workers.places]
        error = explain(reports, lost, hosts, hosts_without_answer(self._hosts))
        if any(not failure.of_communication for failure in reports) or not self._restarts_left:
            raise error
        raise _StartAgainError(error, max((failure.step or 0 for failure in reports), default=None))

    def _replace(self, attempt: _Attempt, rank: int, reason: Any, not_on: str | None = None) -> None:
        """Starts a replacement for a rank, not on the node `not_on`, which Ray wrongly considers alive."""
        lost_at = time.monotonic()
        text = reason.text if isinstance(reason, Failure) else (str(reason).splitlines() or ["died"])[0]
        host = attempt.workers.places[rank].host
        if not self._restarts_left:
            raise RunError(f"the worker was lost ({text})", host=host, rank=rank)
        self._restarts_left -= 1
        self._attempt += 1
        try:
            attempt.workers.replace(rank, not_on)
        except RunError:
            raise RunError(f"no place for another worker ({text})", host=host, rank=rank) from None
        self._set_to_work(attempt, rank, None)
        self._announce(
            f"rank {rank} on {host} was lost ({text}); replaced on {attempt.workers.places[rank].host} after "
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

    def _describe_servers(self, attempt: _Attempt) -> None:
        """Makes the servers send their remaining records, and records their memory."""
        if not attempt.servers:
            return
        peaks = ray.get([server.close.remote() for server in attempt.servers])
        facts = ServerMemory(server_peak_rss_bytes=peaks)
        served = [cell for cell in self._plan.cells if cell.server]
        ray.get([self._collector.describe.remote(cell.name, facts) for cell in served])


def _end(actors: Sequence[Any]) -> None:
    for actor in actors:
        with contextlib.suppress(RayError, ValueError):
            ray.kill(actor)
