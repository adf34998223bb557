"""One rank of a bare all-reduce, on a lab's host: `raw_all_reduce.py RANK SIZE ADDRESS HEAD BYTES REPEATS`.

No model, no Ray: what torch.distributed itself gets out of the links. Rank 0 prints a JSON object: the
goodput of every path of the ring, measured first, and the seconds of each all-reduce.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from distsqz.metering.link import measure_ring

STREAM_S = 1.0


def main(rank: int, world_size: int, address: str, head: str, payload_bytes: int, repeats: int) -> None:
    """Measures and prints."""
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    dist.init_process_group("gloo", f"tcp://{head}:29500", rank=rank, world_size=world_size)
    hosts = _all_gather(socket.gethostname())
    links = _all_gather(measure_ring(rank, hosts, address, STREAM_S, _all_gather))
    payload = torch.ones(payload_bytes // 4)
    seconds = []
    for _ in range(1 + repeats):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(payload)
        seconds.append(time.perf_counter() - start)
    # The last rank to arrive sees the transfer itself; the others wait for it too.
    shortest = [min(ranks) for ranks in zip(*_all_gather(seconds), strict=True)]
    if rank == 0:
        goodputs = [link.goodput_bytes_per_s for of_rank in links for link in of_rank]
        print(json.dumps({"goodput_bytes_per_s": goodputs, "all_reduce_s": shortest[1:]}))


def _all_gather(mine: Any) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
