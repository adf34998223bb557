"""The object-store pattern on a Ray cluster, from its head: `object_store.py WORKERS BYTES ROUNDS`.

Workers put gradients into Ray's object store, an actor on another host takes and averages them, and its
parameters go back the same way: what one writes first with Ray alone. No model; prints seconds a round.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TENSORS = 16
"""As many as AlexNet has; their sizes matter little to the object store."""

Arrays = list[NDArray[np.float32]]


@ray.remote(num_cpus=0)
class Server:
    """Holds the parameters."""

    def __init__(self, payload_bytes: int) -> None:
        self._parameters = parts(payload_bytes)

    def apply(self, *gradients: Arrays) -> Arrays:
        """Updates from all workers' gradients; gives the parameters."""
        for tensor, *of_workers in zip(self._parameters, *gradients, strict=True):
            for gradient in of_workers:
                tensor -= np.float32(0.01 / len(gradients)) * gradient
        return self._parameters


@ray.remote(num_cpus=0)
class Worker:
    """Has gradients ready at any time."""

    def __init__(self, payload_bytes: int) -> None:
        self._gradients = parts(payload_bytes)

    def gradients(self, parameters: Arrays) -> Arrays:
        """Of a step on these parameters."""
        assert len(parameters) == len(self._gradients)
        return self._gradients

    def take(self, parameters: Arrays) -> None:
        """Parameters have come."""
        assert len(parameters) == len(self._gradients)


def parts(payload_bytes: int) -> Arrays:
    """So many bytes, as tensors."""
    return [np.ones(payload_bytes // 4 // TENSORS, np.float32) for _ in range(TENSORS)]


def main(workers: int, payload_bytes: int, rounds: int) -> None:
    """Measures and prints."""
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    nodes = sorted((node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes())
    assert len(nodes) == workers + 1

    def on(place: int) -> dict[str, Any]:
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(nodes[place][1], soft=False)}

    server = Server.options(**on(workers)).remote(payload_bytes)  # type: ignore[attr-defined]
    hands = [Worker.options(**on(place)).remote(payload_bytes) for place in range(workers)]  # type: ignore[attr-defined]
    parameters = ray.put(parts(payload_bytes))
    seconds = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        parameters = server.apply.remote(*(worker.gradients.remote(parameters) for worker in hands))
        # A round is over when the parameters are on every worker's host.
        ray.get([worker.take.remote(parameters) for worker in hands], timeout=600)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
