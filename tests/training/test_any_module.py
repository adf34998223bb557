"""Any module trains in a group as one process trains it, rank after rank, or it is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from any_module import IMAGE_SIZE
from group import train_each
from torch.nn import functional as F

from distsqz.data import train_batches
from distsqz.errors import RequestError
from distsqz.models.recipes import OWN_MODEL
from distsqz.training.cell import Cell
from distsqz.training.options import ServerOptions, TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan

WORKERS, STEPS, LR = 2, 5, 0.02
OPTIONS = TrainingOptions(
    image_size=IMAGE_SIZE, num_classes=5, batch_size=4, steps=STEPS, warmup_steps=0, lr=LR, threads=1,
    find_unused_parameters=True,
)  # fmt: skip
MOST_DIFFERENCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative to the largest value of the parameter."""
MOST_REFUSED = 0.15


def trained_in_one_process(cell: Cell) -> Mapping[str, torch.Tensor]:
    """Each rank's images with that rank's seed and buffers; gradients are averaged, torch's SGD updates."""
    model = cell.build_replica()  # dropout draws in the order of memory
    memory_format = cell.memory_format(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=OWN_MODEL.momentum, weight_decay=OWN_MODEL.weight_decay
    )
    data = cell.open_data().train
    batches = [
        train_batches(data, rank=rank, world_size=WORKERS, batch_size=cell.options.batch_size, seed=0)
        for rank in range(WORKERS)
    ]
    buffers = [[buffer.clone() for buffer in model.buffers()] for _ in range(WORKERS)]
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        parameters = [parameter.detach().clone() for parameter in model.parameters()]
        for rank in range(WORKERS):
            images, labels = next(batches[rank])
            seed = int(np.random.SeedSequence([0, rank, step]).generate_state(1, np.uint64)[0])
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            put(model.buffers(), buffers[rank])
            put(model.parameters(), parameters)  # the rank before may have written to them in forward()
            logits = model(images.to(memory_format=memory_format))
            logits = logits if logits.dtype == torch.float64 else logits.float()
            (F.cross_entropy(logits, labels) / WORKERS).backward()
            buffers[rank] = [buffer.clone() for buffer in model.buffers()]
        optimizer.step()
    return {name: value.detach() for name, value in model.named_parameters()}


def put(tensors: Iterable[torch.Tensor], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def difference(ours: Mapping[str, torch.Tensor], plain: Mapping[str, torch.Tensor]) -> float:
    """The greatest of any parameter, as a share of what is allowed for its data type."""
    shares = [0.0]
    for name, value in plain.items():
        if value.numel():
            apart = (ours[name].double() - value.double()).abs().max().item()
            shares.append(apart / max(1e-3, value.abs().max().item()) / MOST_DIFFERENCE[value.dtype])
    return max(shares)


def check(seeds: range, folder: Path) -> None:
    """Trains the modules of these seeds every way; prints seeds and reasons of what is refused."""
    cells: list[tuple[int, Cell, Cell]] = []
    refused: dict[int, str] = {}
    for seed in seeds:
        options = replace(OPTIONS, channels_last="off" if seed % 2 else "auto")
        try:
            plan, _ = plan_session(
                [f"any_module:module_{seed}"], WORKERS, options, [None, ServerOptions(servers=1)]
            )
            cells.append((seed, *plan.cells))
        except RequestError as error:
            refused[seed] = str(error)
    together = SessionPlan(cells=[cell for _, *pair in cells for cell in pair])
    apart = SessionPlan(cells=[_on_two_shards(cell) for *_, cell in cells])
    on_one, on_two = train_each([together, apart], WORKERS, folder)
    wrong = []
    for seed, ddp, ps in cells:
        plain = trained_in_one_process(ddp)
        for way, ranks in (
            ("ddp", on_one[ddp.name]),
            ("ps", on_one[ps.name]),
            ("ps on 2 shards", on_two[ps.name]),
        ):
            outcome = ranks[0]
            if any(isinstance(each, str) and "ParameterWrittenError" in each for each in ranks):
                refused[seed] = f"{way}: {ranks}"
            elif isinstance(outcome, str):
                wrong.append(f"{ddp.model}, {way}: {outcome}")
            elif (apart_by := difference(outcome, plain)) > 1:
                wrong.append(f"{ddp.model}, {way}: {apart_by:.3g} times what is allowed")
    print(f"{seeds}: {len(refused)} refused", *refused.items(), sep="\n")
    assert not wrong, wrong
    assert len(refused) <= MOST_REFUSED * len(seeds)


def _on_two_shards(cell: Cell) -> Cell:
    return replace(cell, server=ServerOptions(servers=2))


def test_a_module_of_the_grammar_trains_as_in_one_process(tmp_path: Path) -> None:
    first = int(os.environ.get("DISTSQZ_FIRST_SEED", "0"))
    check(range(first, first + 20), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_modules_of_the_grammar_train_as_in_one_process(tmp_path: Path) -> None:
    check(range(1000, 1200), tmp_path)
