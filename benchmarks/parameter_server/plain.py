"""One rank of a parameter server of isend and irecv, on a lab's host: `plain.py RANK SIZE HEAD BYTES ROUNDS`.

The last rank is the server. All gradients come in, then the update is made, then all parameters go out:
nothing overlaps. No model, no Ray. Rank 0 prints seconds a round.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.distributed as dist


def main(rank: int, world_size: int, head: str, payload_bytes: int, rounds: int) -> None:
    """Measures and prints."""
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    dist.init_process_group("gloo", f"tcp://{head}:29501", rank=rank, world_size=world_size)
    server, elements = world_size - 1, payload_bytes // 4
    parameters = torch.ones(elements)
    gradients = [torch.ones(elements) for _ in range(server if rank == server else 1)]
    seconds = []
    for _ in range(1 + rounds):
        dist.barrier()
        start = time.perf_counter()
        if rank == server:
            wait(dist.irecv(gradient, worker) for worker, gradient in enumerate(gradients))
            for gradient in gradients:
                parameters.sub_(gradient, alpha=0.01 / server)
            wait(dist.isend(parameters, worker) for worker in range(server))
        else:
            wait([dist.isend(gradients[0], server)])
            wait([dist.irecv(parameters, server)])
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        print(json.dumps(seconds[1:]))


def wait(works: object) -> None:
    """Until all have come or gone."""
    for work in list(works):  # type: ignore[call-overload]
        work.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
