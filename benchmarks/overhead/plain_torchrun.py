"""The same training as an engineer would write it plainly, under torchrun: no Ray, no meters, stock DDP.

Trains until it is ended; rank 0 writes a line a step: its start in ns since the epoch, its duration in s.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from distsqz.data import open_data, train_batches
from distsqz.models.registry import ModelOptions, build_model, recipe_for
from distsqz.runs.cores import cores_of_this_host


def main(name: str, image_size: int, batch_size: int, output: Path) -> None:
    """Trains and writes step times."""
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, cores_of_this_host() // world_size))
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
    with (output if rank == 0 else Path(os.devnull)).open("w") as lines:
        for _ in itertools.count():
            start_ns, start = time.time_ns(), time.perf_counter()
            images, labels = next(batches)
            loss = F.cross_entropy(replica(images.to(memory_format=torch.channels_last)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step_s = time.perf_counter() - start
            print(start_ns, step_s, file=lines, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
