"""The workers of a session: placed together, or not at all, and kept in the order of their ranks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distsqz.cluster.worker_actor import WorkerActor, WorkerPlace
from distsqz.errors import RunError

START_TIMEOUT_S = 120.0
"""Seconds within which Ray must find a place for a worker and start it."""
POLL_S = 1
"""Seconds until a wait looks whether the session is to end. Ray takes whole ones."""
NODE_ID_LABEL = "ray.io/node-id"


class StoppedError(Exception):
    """The session was to end while its workers were awaited."""


@dataclass
class _Worker:
    """A worker that has started, or is about to."""

    actor: Any
    bundle: int | None
    """Its part of the placement group; None if it was started outside of it."""


class WorkerGroup:
    """Workers with a CPU each, and a GPU each if they train on GPUs, spread over the hosts."""

    def __init__(
        self, workers: int, gpus: bool, collector: Any, env: dict[str, str], stop: threading.Event
    ) -> None:
        """Reserves the resources of all workers and begins to start them.

        Args:
            workers: number of workers.
            gpus: whether each worker has a GPU.
            collector: actor that receives records and checkpoints.
            env: environment variables of the workers.
            stop: event that ends every wait.

        Raises:
            RunError: Ray has no room for all of them in time.
            StoppedError: the session is to end.
        """
        self._resources = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
        self._collector = collector
        self._env = env
        self._stop = stop
        self.places: list[WorkerPlace] = []
        """Places of the workers that have started, by rank."""
        self._workers: list[_Worker] = []
        self._bundles: PlacementGroup = placement_group([self._resources] * workers, strategy="SPREAD")
        try:
            self._wait_for_bundles()
            self._workers = [_Worker(self._start_in(bundle), bundle) for bundle in range(workers)]
        except BaseException:
            self.end()
            raise

    def nodes(self) -> list[str]:
        """The Ray node of each worker, known before the workers have started."""
        by_bundle = placement_group_table(self._bundles)["bundles_to_node_id"]
        return [by_bundle[bundle] for bundle in range(len(self._workers))]

    def assign_ranks(self) -> None:
        """Waits until all workers have started, and orders them: those of a host follow each other.

        Raises:
            RunError: a worker did not start in time.
            StoppedError: the session is to end.
        """
        introduced = self._introduced([worker.actor for worker in self._workers])
        order = by_host(introduced)
        self.places = [introduced[index] for index in order]
        self._workers = [self._workers[index] for index in order]

    def actor(self, rank: int) -> Any:
        """The actor of a rank."""
        return self._workers[rank].actor

    def replace(self, rank: int, not_on: str | None = None) -> None:
        """Starts another worker for a rank, in the place of the one that it ends.

        Args:
            rank: the rank.
            not_on: a node that has stopped answering, although Ray considers it alive; the other worker is
                then started on any other node with room.

        Raises:
            RunError: there is no place for another worker.
            StoppedError: the session is to end.
        """
        worker = self._workers[rank]
        with contextlib.suppress(RayError, ValueError):
            ray.kill(worker.actor)
        bundle = None if not_on else worker.bundle
        actor = self._start_outside(not_on) if bundle is None else self._start_in(bundle)
        self._workers[rank] = _Worker(actor, bundle)
        (self.places[rank],) = self._introduced([actor])

    def end(self) -> None:
        """Ends the workers and frees their resources."""
        for worker in self._workers:
            with contextlib.suppress(RayError, ValueError):
                ray.kill(worker.actor)
        with contextlib.suppress(RayError):
            remove_placement_group(self._bundles)

    def _wait_for_bundles(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self._bundles.wait(POLL_S):
            if self._stop.is_set():
                raise StoppedError
            if time.monotonic() > give_up_at:
                wanted = " and a ".join(self._resources)
                raise RunError(
                    f"Ray found no place for {self._bundles.bundle_count} workers, each with a {wanted}, "
                    f"within {START_TIMEOUT_S:.0f} s"
                )

    def _start_in(self, bundle: int) -> Any:
        inside = PlacementGroupSchedulingStrategy(self._bundles, placement_group_bundle_index=bundle)
        return self._start(scheduling_strategy=inside)

    def _start_outside(self, not_on: str | None) -> Any:
        elsewhere = {"label_selector": {NODE_ID_LABEL: f"!{not_on}"}} if not_on else {}
        return self._start(scheduling_strategy="SPREAD", **elsewhere)

    def _start(self, **where: Any) -> Any:
        return WorkerActor.options(  # type: ignore[attr-defined]
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0),
            runtime_env={"env_vars": self._env},
            **where,
        ).remote(self._collector)

    def _introduced(self, actors: Sequence[Any]) -> list[WorkerPlace]:
        calls = [actor.introduce.remote() for actor in actors]
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while len(ray.wait(calls, num_returns=len(calls), timeout=POLL_S)[0]) < len(calls):
            if self._stop.is_set():
                raise StoppedError
            if time.monotonic() > give_up_at:
                raise RunError(f"Ray did not start the workers within {START_TIMEOUT_S:.0f} s")
        try:
            return list(ray.get(calls))
        except RayActorError as error:
            raise RunError(f"a worker did not start: {str(error).splitlines()[0]}") from error


def by_host(places: Sequence[WorkerPlace]) -> list[int]:
    """The order of ranks: workers of one host follow each other, by the ids of their GPUs.

    Args:
        places: places of the workers in any order.

    Returns:
        The index in `places` of each rank. The hosts keep their order.
    """
    hosts = list(dict.fromkeys(place.host for place in places))

    def position(index: int) -> tuple[int, list[tuple[int, str]]]:
        gpus = places[index].gpus
        return hosts.index(places[index].host), [(len(gpu), gpu) for gpu in gpus]

    return sorted(range(len(places)), key=position)
