"""Any module trains in a group as one process trains it, rank after rank, or it is refused."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from any_module import IMAGE_SIZE, Clamped

from benchmarks.agreement.disturbance import disturb
from benchmarks.agreement.group import Values, train_each, trained_in_one_process
from distsqz.errors import RequestError
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.training.cell import Cell
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan

WORKERS = 2
OPTIONS = TrainingOptions(
    image_size=IMAGE_SIZE, num_classes=5, batch_size=4, steps=5, warmup_steps=0, lr=0.02, threads=1,
)  # fmt: skip
STRATEGIES = (
    AllReduce(AllReduceOptions(find_unused_parameters=True)),
    ParameterServer(ServerOptions(servers=1)),
)
MOST_DIFFERENCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative to the largest value of the parameter."""
MOST_REFUSED = 0.15


def difference(ours: Values, plain: Values) -> float:
    """The greatest of any parameter or buffer, as a share of what is allowed for its data type."""
    shares = [torch.zeros((), dtype=torch.double)]
    for name, value in plain.items():
        if value.numel() and value.is_floating_point():
            apart = (ours[name].double() - value.double()).abs().max()
            shares.append(apart / max(1e-3, value.abs().max().item()) / MOST_DIFFERENCE[value.dtype])
    return torch.stack(shares).max().item()  # NaN where any of them is


def check(seeds: range, folder: Path) -> None:
    """Trains the modules of these seeds in every way; prints how many are refused, and why."""
    cells: list[tuple[int, Cell, Cell]] = []
    refused: dict[int, str] = {}
    for seed in seeds:
        options = replace(OPTIONS, channels_last="off" if seed % 2 else "auto")
        try:
            plan, _ = plan_session(
                [f"any_module:module_{seed}"],
                WORKERS,
                options,
                [
                    AllReduce(AllReduceOptions(find_unused_parameters=True)),
                    ParameterServer(ServerOptions(servers=1)),
                ],
            )
            cells.append((seed, *plan.cells))
        except RequestError as error:
            refused[seed] = f"before the start: {error}"
    together = SessionPlan(cells=[cell for _, *pair in cells for cell in pair])
    apart = SessionPlan(cells=[_on_two_shards(cell) for *_, cell in cells])
    on_one, on_two = train_each([together, apart], WORKERS, folder, partial(disturb, seeds.start))
    wrong = []
    for seed, ddp, ps in cells:
        plain = trained_in_one_process(ddp)
        by_strategy = {"ddp": on_one[ddp.name], "ps": on_one[ps.name], "ps on 2 shards": on_two[ps.name]}
        for strategy, ranks in by_strategy.items():
            errors = " ".join(each for each in ranks if isinstance(each, str))
            if "ParameterWrittenError" in errors or ("DriftError" in errors and writes(ddp)):
                refused[seed] = f"{strategy}, while training: {errors}"
            elif errors:
                wrong.append(f"{ddp.model}, {strategy}: {errors}")
            elif not (apart_by := difference(ranks[0], plain)) <= 1:
                wrong.append(f"{ddp.model}, {strategy}: {apart_by:.3g} times what is allowed")
    print(f"{seeds}: {len(refused)} refused", *by_reason(refused), sep="\n")
    assert not wrong, wrong
    assert len(refused) <= MOST_REFUSED * len(seeds)


REASONS = (
    r"before the start: .*changes .* in place",
    r"before the start: .*a new \.data",
    r"while training: .*ParameterWrittenError",
    r"ddp, while training: .*DriftError",
    r".*",
)


def by_reason(refused: Mapping[int, str]) -> list[str]:
    """A line for each kind of refusal: how often, what one of them says, and the seeds of all."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for seed, message in refused.items():
        seeds[next(reason for reason in REASONS if re.search(reason, message))].append(seed)
    return [f"{len(those)}, seeds {those}: {refused[those[0]]}" for those in seeds.values()]


def writes(cell: Cell) -> bool:
    """Whether the module writes to its parameters; ranks that do so in different steps drift apart."""
    return any(isinstance(part, Clamped) for part in cell.build().modules())


def _on_two_shards(cell: Cell) -> Cell:
    return replace(cell, strategy=ParameterServer(ServerOptions(servers=2)))


def test_a_module_of_the_grammar_trains_as_in_one_process(tmp_path: Path) -> None:
    first = int(os.environ.get("DISTSQZ_FIRST_SEED", "0"))
    check(range(first, first + 20), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_modules_of_the_grammar_train_as_in_one_process(tmp_path: Path) -> None:
    first = int(os.environ.get("DISTSQZ_FIRST_SEED", "1000"))
    check(range(first, first + 200), tmp_path)
