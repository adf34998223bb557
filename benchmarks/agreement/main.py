"""Do a parameter server and DDP train the same parameters? `python benchmarks/agreement/main.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from benchmarks.agreement.disturbance import disturb
from benchmarks.agreement.group import Outcome, Values, train_each, trained_in_one_process
from benchmarks.agreement.local_servers import nothing
from distsqz.cli.command import run_command
from distsqz.errors import RequestError
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.training.cell import Cell
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan

MODELS = (
    *("WeightNorm", "SpectralNorm", "ParametrizedWeightNorm", "ParametrizedSpectralNorm", "Orthogonal"),
    *("CachedParametrization", "Pruned", "EqualisedRate", "ScaledInPlace", "NeighboursHook", "GlobalHook"),
    *("ListedParameters", "Flat", "Hybrid23", "Half", "Half16", "NumpyInit", "RandomFeatures", "Norm"),
    *("SharedPlain", "Unused", "LayerDrop"),
)
NEED_UNUSED = ("Unused", "LayerDrop")
WORKERS = 2
SHARDS = (1, 2)
MOST_DIFFERENCE = {torch.float64: 1e-12} | {
    dtype: 8 * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float16, torch.bfloat16)
}
"""Bar for a parameter or buffer, by data type, relative to its greatest value: 9.5e-7 for float32."""

DIFFERENCES = ["ps_ddp", "ddp_plain", "ps_plain"]
COLUMNS = ["model", "repetition", "agree", "failure", *DIFFERENCES]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, and how often."""

    models: tuple[str, ...] = MODELS
    """Names of models in benchmarks/agreement/models.py."""
    repetitions: int = 20
    """Number of trainings of each model under each strategy, each on new processes. In every second one the
    servers' answers come late and parameters on their way are overwritten with NaN."""
    precision: Literal["as-it-is", "float64"] = "as-it-is"
    """float64 trains every model in float64, in which rounding cannot hide a fault."""
    steps: int = 20
    """Steps of each training."""
    lr: float = 0.05
    """Learning rate."""
    debug: bool = False
    """Print tracebacks."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model's cells, and what training in one process makes of it."""

    ddp: Cell
    ps: Cell
    plain: Values


def main(options: Options) -> None:
    """Trains every model in every way, again and again, and prints a table of differences."""
    torch.set_num_threads(1)  # as workers have: sums in another order round otherwise
    models: dict[str, Trained] = {}
    refused: dict[str, str] = {}
    for model in options.models:
        try:
            models[model] = _planned(model, options)
        except RequestError as error:
            refused[model] = str(error)
    rows = [row for repetition in range(options.repetitions) for row in _repeat(repetition, models)]
    _print_table(pd.DataFrame(rows, columns=COLUMNS), options.repetitions)
    for model, reason in refused.items():
        print(f"| {model} | refused: {reason} | | | |")
    for failure in dict.fromkeys(row["failure"] for row in rows if row["failure"]):
        print(f"\n{failure}")


def _print_table(rows: pd.DataFrame, repetitions: int) -> None:
    print("| model | agree | ps and ddp | ddp and one process | ps and one process |")
    print("|---|---:|---:|---:|---:|")
    for model, of_model in rows.groupby("model", sort=False):
        agree = f"{of_model.groupby('repetition')['agree'].all().sum()} of {repetitions}"
        greatest = (f"{of_model[column].max():.1e}" for column in DIFFERENCES)
        print("|", " | ".join([str(model), agree, *greatest]), "|")


def _planned(model: str, options: Options) -> Trained:
    training = TrainingOptions(
        image_size=32,
        num_classes=10,
        batch_size=4,
        steps=options.steps,
        warmup_steps=0,
        lr=options.lr,
        threads=1,
    )
    all_reduce = AllReduce(AllReduceOptions(find_unused_parameters=model in NEED_UNUSED))
    strategies = [all_reduce, ParameterServer(ServerOptions(servers=1))]
    name = model if options.precision == "as-it-is" else f"{model}InFloat64"
    plan, _ = plan_session([f"benchmarks.agreement.models:{name}"], WORKERS, training, strategies)
    ddp, ps = plan.cells
    return Trained(ddp=ddp, ps=ps, plain=trained_in_one_process(ddp))


def _repeat(repetition: int, models: Mapping[str, Trained]) -> list[dict[str, Any]]:
    """Trains every model once under each strategy; gives a row for each model and number of shards."""
    by_shards = {
        shards: [
            replace(each.ps, strategy=ParameterServer(ServerOptions(servers=shards)))
            for each in models.values()
        ]
        for shards in SHARDS
    }
    plans = [
        SessionPlan(cells=[each.ddp for each in models.values()]),
        *(SessionPlan(cells=cells) for cells in by_shards.values()),
    ]
    prepare = partial(disturb, repetition) if repetition % 2 else nothing
    with tempfile.TemporaryDirectory() as folder:
        ddp, *ps = train_each(plans, WORKERS, Path(folder), prepare)
    return [
        {"model": model, "repetition": repetition}
        | _compared(ddp[each.ddp.name], of_shards[each.ps.name], each.plain)
        for of_shards in ps
        for model, each in models.items()
    ]


def _compared(ddp: Sequence[Outcome], ps: Sequence[Outcome], plain: Values) -> dict[str, Any]:
    """Differences of rank 0's values, and whether they are within `MOST_DIFFERENCE`."""
    for outcome in [*ddp, *ps]:
        if isinstance(outcome, str):
            return {"agree": False, "failure": outcome}
    by_ddp, by_ps = ddp[0], ps[0]
    assert not isinstance(by_ddp, str)
    assert not isinstance(by_ps, str)
    apart = differences(by_ps, by_ddp)
    return {
        "agree": all(apart[name] <= MOST_DIFFERENCE.get(by_ddp[name].dtype, 0) for name in apart),
        "failure": None,
        "ps_ddp": max(apart.values()),
        "ddp_plain": max(differences(by_ddp, plain).values()),
        "ps_plain": max(differences(by_ps, plain).values()),
    }


def differences(ours: Values, reference: Values) -> dict[str, float]:
    """The greatest of each parameter and buffer, relative to its greatest value in `reference`."""
    return {
        name: (
            (ours[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-12)
        ).item()
        for name, value in reference.items()
    }


if __name__ == "__main__":
    run_command(main, Options, "Compare what a parameter server, DDP and one process train, model by model.")
