"""Trains real networks in several ways and prints how far apart they end, as a table.

`python benchmarks/real_networks/main.py`
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.agreement.disturbance import disturb
from benchmarks.agreement.group import Outcome, Values, train_each, trained_in_one_process
from benchmarks.real_networks.models import CONFIGURATIONS, FP64, IMAGE_SIZE
from distsqz.cli.command import run_command
from distsqz.errors import RequestError
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.training.cell import Cell
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan

WORKERS = 2
TRAINING = TrainingOptions(
    image_size=IMAGE_SIZE, num_classes=10, batch_size=4, steps=3, warmup_steps=0, lr=0.02, threads=1,
    channels_last="off",
)  # fmt: skip
MOST_DIFFERENCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Greatest relative difference of networks that do not amplify rounding, by data type."""
LEAST_SCALE = 1e-3
"""Differences are relative to a tensor's greatest value, or to this if all its values are smaller."""
NETWORKS = tuple(network + ending for ending in ("", FP64) for network in CONFIGURATIONS)
DDP, ONE_SHARD, TWO_SHARDS = "ddp", "ps", "ps on 2 shards"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of benchmarks/real_networks/main.py."""

    networks: tuple[str, ...] = NETWORKS
    """Networks to train: names of factories in benchmarks/real_networks/models.py."""
    debug: bool = False
    """Print tracebacks."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far apart the trainings of one network end.

    A difference is the greatest of any parameter or buffer, relative to the tensor's greatest value.
    """

    network: str
    parameters: int
    gradient_bytes: int
    """Bytes of gradients that a worker hands over in a step."""
    bar: float
    """Greatest difference that is taken for rounding if the network does not amplify it more."""
    change: float
    """Difference that training made to the initial parameters."""
    rounding: float
    """Difference that a relative error of one rounding in the initial parameters makes in one process."""
    ddp_one_process: float
    """Difference between all-reduce and one process."""
    ps_ddp: float
    """Difference between a parameter server on one shard and all-reduce."""
    two_shards_ddp: float
    """Difference between a parameter server on two shards and all-reduce."""

    @property
    def greatest(self) -> float:
        """The greatest difference between two trainings."""
        return max(self.ddp_one_process, self.ps_ddp, self.two_shards_ddp)

    @property
    def agrees(self) -> bool:
        """Whether no difference is above the bar, or above what one rounding makes of the network."""
        return self.greatest <= max(self.bar, self.rounding)


def main(options: Options) -> None:
    """Trains the networks and prints the table in Markdown, then the networks that were not trained."""
    with tempfile.TemporaryDirectory() as folder:
        comparisons, failures = compare(options.networks, Path(folder))
    print(table(comparisons))
    for network, reason in failures.items():
        print(f"\n{network}: {reason}")


def compare(networks: Sequence[str], folder: Path) -> tuple[list[Comparison], dict[str, str]]:
    """Trains each network with all-reduce, through one and two shards, and in one process.

    The parameter server is disturbed: answers come late, and parameters are NaN until they have come.

    Args:
        networks: names of factories in benchmarks/real_networks/models.py.
        folder: an existing, empty folder, where the processes meet.

    Returns:
        The comparisons, and by network the reasons of those that were refused or failed.
    """
    plans: dict[str, SessionPlan] = {}
    failures: dict[str, str] = {}
    for network in networks:
        try:
            plans[network] = _plan(network)
        except RequestError as error:
            failures[network] = str(error)
    together = SessionPlan(cells=[cell for plan in plans.values() for cell in plan.cells])
    apart = SessionPlan(cells=[_on_two_shards(plan.cells[1]) for plan in plans.values()])
    first, second = train_each([together, apart], WORKERS, folder, partial(disturb, 1))
    comparisons = []
    for network, plan in plans.items():
        ddp, ps = (cell.name for cell in plan.cells)
        outcomes = {DDP: first[ddp], ONE_SHARD: first[ps], TWO_SHARDS: second[ps]}
        errors = _errors(outcomes)
        if errors:
            failures[network] = "; ".join(errors)
        else:
            comparisons.append(_compared(network, plan.cells[0], outcomes))
    return comparisons, failures


def difference(ours: Values, theirs: Values) -> float:
    """The greatest difference of any tensor of real numbers in `theirs`, relative; NaN if there is one."""
    shares = [0.0]
    for name, value in theirs.items():
        if value.numel() and value.is_floating_point():
            apart = (ours[name].double() - value.double()).abs().max().item()
            shares.append(apart / max(LEAST_SCALE, value.abs().max().item()))
    return torch.tensor(shares).max().item()


def table(comparisons: Sequence[Comparison]) -> str:
    """A row a network, in Markdown."""
    titles = [
        "network", "parameters", "gradient bytes a step", "ddp / one process", "ps / ddp",
        "ps on 2 shards / ddp", "after one rounding", "change", "agree to",
    ]  # fmt: skip
    rows = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * 7 + "---|"]
    for each in comparisons:
        differences = (each.ddp_one_process, each.ps_ddp, each.two_shards_ddp, each.rounding, each.change)
        figures = [f"{each.parameters:,}", f"{each.gradient_bytes:,}", *(f"{one:.1g}" for one in differences)]
        verdict = f"{each.bar:g}" if each.greatest <= each.bar else "rounding" if each.agrees else "**no**"
        rows.append(f"| {' | '.join([each.network, *figures, verdict])} |")
    return "\n".join(rows)


class _RoundedCell(Cell):
    """A cell whose model begins with every parameter off by its data type's relative rounding error."""

    def build(self) -> nn.Module:
        module = super().build()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + torch.finfo(parameter.dtype).eps)
        return module


def _plan(network: str) -> SessionPlan:
    model = f"benchmarks.real_networks.models:{network}"
    return plan_session([model], WORKERS, TRAINING, [AllReduce(), ParameterServer(ServerOptions(servers=1))])[
        0
    ]


def _on_two_shards(cell: Cell) -> Cell:
    return replace(cell, strategy=ParameterServer(ServerOptions(servers=2)))


def _errors(outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    return [
        f"{training}, rank {rank}: {outcome}"
        for training, ranks in outcomes.items()
        for rank, outcome in enumerate(ranks)
        if isinstance(outcome, str)
    ]


def _compared(network: str, cell: Cell, outcomes: Mapping[str, Sequence[Outcome]]) -> Comparison:
    ddp, one_shard, two_shards = (_values(outcomes[each][0]) for each in (DDP, ONE_SHARD, TWO_SHARDS))
    initial = dict(cell.build().named_parameters())
    trained = [each for each in initial.values() if each.requires_grad]
    torch.set_num_threads(1)  # as in the groups: sums are in the same order
    alone = trained_in_one_process(cell)
    return Comparison(
        network=network,
        parameters=sum(each.numel() for each in initial.values()),
        gradient_bytes=sum(each.nbytes for each in trained),
        bar=MOST_DIFFERENCE[trained[0].dtype],
        change=difference(initial, {name: alone[name] for name in initial}),
        rounding=difference(trained_in_one_process(_RoundedCell(**vars(cell))), alone),
        ddp_one_process=difference(ddp, alone),
        ps_ddp=difference(one_shard, ddp),
        two_shards_ddp=difference(two_shards, ddp),
    )


def _values(outcome: Outcome) -> Values:
    assert not isinstance(outcome, str)
    return outcome


if __name__ == "__main__":
    run_command(
        main, Options, "Train real networks with all-reduce, a parameter server and in one process; compare."
    )
