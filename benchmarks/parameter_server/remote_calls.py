"""One rank of a parameter server of torch.distributed.rpc: `remote_calls.py RANK SIZE HEAD BYTES ROUNDS`.

The last rank is the server; each worker calls it with its gradients, the call returns when all have come,
with the parameters. No model, no Ray. Rank 0 prints seconds a round.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import rpc

ROUND: dict[str, Any] = {"gradients": [], "waiting": [], "lock": threading.Lock()}


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def push_and_pull(gradients: torch.Tensor, workers: int) -> torch.futures.Future[torch.Tensor]:
    """On the server: the parameters, once every worker's gradients of this round are in."""
    answer: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    with ROUND["lock"]:
        ROUND["gradients"].append(gradients)
        ROUND["waiting"].append(answer)
        if len(ROUND["waiting"]) == workers:
            parameters = ROUND.setdefault("parameters", torch.ones_like(gradients))
            for gradient in ROUND["gradients"]:
                parameters.sub_(gradient, alpha=0.01 / workers)
            for one in ROUND["waiting"]:
                one.set_result(parameters)
            ROUND["gradients"], ROUND["waiting"] = [], []
    return answer


def main(rank: int, world_size: int, head: str, payload_bytes: int, rounds: int) -> None:
    """Measures and prints."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["TP_SOCKET_IFNAME"] = "eth0"
    dist.init_process_group("gloo", f"tcp://{head}:29503", rank=rank, world_size=world_size)
    server = world_size - 1
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"tcp://{head}:29502", rpc_timeout=300)
    rpc.init_rpc(  # type: ignore[no-untyped-call]
        f"rank{rank}", rank=rank, world_size=world_size, rpc_backend_options=options
    )
    seconds = []
    if rank != server:
        gradients = torch.ones(payload_bytes // 4)
    for _ in range(1 + rounds):
        dist.barrier()
        start = time.perf_counter()
        if rank != server:
            rpc.rpc_sync(f"rank{server}", push_and_pull, (gradients, server))
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        print(json.dumps(seconds[1:]))
    rpc.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
