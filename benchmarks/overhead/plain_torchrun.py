"""The same training as an engineer would write it plainly, under torchrun: no Ray, no meters, stock DDP.

Prints the time of each measured step on the slowest rank, in seconds, a line each.
"""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from distsqz.data import open_data, train_batches
from distsqz.models.registry import ModelOptions, build_model, recipe_for


def main(name: str, image_size: int, batch_size: int, warmup_steps: int, steps: int) -> None:
    """Trains and prints step times."""
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world_size))
    torch.manual_seed(0)
    model = build_model(ModelOptions(model=name, image_size=image_size), num_classes=1000)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
    recipe = recipe_for(name)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr * batch_size * world_size / recipe.batch,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    data = open_data("synthetic", image_size=image_size, seed=0)
    batches = train_batches(data.train, rank=rank, world_size=world_size, batch_size=batch_size, seed=0)
    times = torch.zeros(warmup_steps + steps)
    for step in range(warmup_steps + steps):
        start = time.perf_counter()
        images, labels = next(batches)
        loss = F.cross_entropy(replica(images.to(memory_format=torch.channels_last)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times[step] = time.perf_counter() - start
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    if rank == 0:
        print(*times[warmup_steps:].tolist(), sep="\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
