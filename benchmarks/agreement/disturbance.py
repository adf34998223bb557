"""Makes a parameter server's faults of timing show: answers come late, and old values are overwritten."""

from __future__ import annotations

import os
import random
import time

import torch

from distsqz.strategies.parameter_server.client import ServerClient
from distsqz.strategies.parameter_server.shard import Shard

LATEST_ANSWER_S = 0.002


def disturb(seed: int) -> None:
    """Changes the parameter server in this process, for all that it trains from now on.

    A shard sleeps up to `LATEST_ANSWER_S` before it sends a chunk back. A worker overwrites its parameters
    with NaN as their gradients leave, so that whatever reads them before they have arrived is found out.
    """
    draw = random.Random(f"{seed} {os.getpid()}")
    answer, push = Shard.parameters_to_send, ServerClient._push

    def answer_late(shard: Shard, number: int, rank: int) -> tuple[torch.Tensor, int]:
        time.sleep(draw.uniform(0, LATEST_ANSWER_S))
        return answer(shard, number, rank)

    def wipe_and_push(client: ServerClient, chunk: int) -> None:
        client._rows[chunk].fill_(torch.nan)
        push(client, chunk)

    Shard.parameters_to_send = answer_late  # type: ignore[method-assign,assignment]
    ServerClient._push = wipe_and_push  # type: ignore[method-assign,assignment]
