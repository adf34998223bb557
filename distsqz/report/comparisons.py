"""Comparisons of two cells: of two models, of a parameter server with all-reduce, of two values of an option.

Two step times are compared where everything that could make a difference is alike but for what is compared.
That is every key of a cell's entry in run.json and, across runs, of the run's environment, except those that
are named here with the reason, and options whose field says why they do not count: an option that is added to
distsqz counts without being added here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from distsqz.report.bootstrap import Floats, paired_ratio, unpaired_ratio
from distsqz.report.tables import CellTable
from distsqz.runs.cell_spec import rules_by_option
from distsqz.runs.environment import Environment
from distsqz.strategies.registry import BUILT_IN, REFERENCE, strategy_named, strategy_of
from distsqz.training.options import TrainingOptions

OF_STRATEGIES = {
    name: of
    for strategy in BUILT_IN
    for name, of in rules_by_option(strategy_named(strategy).Options).items()
}
"""Rules of the options of strategies, each of which has no effect under the others."""

OPTION_RULES = rules_by_option(TrainingOptions) | OF_STRATEGIES

NOT_SETTINGS = frozenset(
    {
        "cell",  # a name
        "id",  # likewise
        "options",  # groups of keys that stand beside it, too
        "params",  # these three follow from the model
        "tensors",
        "payload_bytes",
        "sent_payload_bytes",
        "restarts",  # an older distsqz had this option of the session in each cell
        "restarted",  # these two were measured
        "server_peak_rss_bytes",
        *(name for name, of in OPTION_RULES.items() if of.not_alike),  # which give their reasons
    }
)
"""Keys of a cell's entry in run.json that say nothing about how it was run."""

BLOCKS = frozenset({"block_steps"})
"""Keys that are ignored across runs, because a run of a single cell takes no turns."""

MODEL = frozenset({"model", "squeeze_ratio", "pct_3x3"})
"""Keys of a cell's entry that say which model it is."""

THREADS = "threads_per_worker"
"""Key of the number of threads that the option `threads` resulted in."""

OF_BYTES = MODEL | {*OF_STRATEGIES} | {"strategy", "world_size", "num_classes"}
"""Keys of a cell's entry that change what a rank sends."""

HOSTS = frozenset({"hosts", "server_hosts"})
"""Other hosts change what a rank sends only where other ranks or servers share one."""

NOT_OF_THE_MACHINE = frozenset(
    {
        "host",  # a name; `hosts` of the cells are where they ran
        "memory_bytes",  # a run that has too little fails
        "versions",  # one by one
        "pandas",  # these two only write and read results
        "pyarrow",
    }
)
"""Keys of a run's environment, and packages of its versions, that have no effect on a step."""

ENVIRONMENT = frozenset(Environment.__annotations__) - NOT_OF_THE_MACHINE
"""Keys of a run's environment that describe the machine. Runs of an older distsqz may lack some."""

GOODPUT_TOLERANCE = 0.05
"""Links whose measured goodput differs by no more than this share of the larger count as alike."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two cells, and how they differ apart from what they are compared for."""

    base: CellTable
    other: CellTable
    across_runs: bool
    """Whether they are of different runs, and so perhaps of different machines."""
    differences: dict[str, tuple[Any, Any]]
    """Settings that differ, by name: the values in `base` and in `other`."""
    not_recorded: list[str]
    """Settings that a run did not record, each with the run's id. They may differ."""

    @property
    def same_bytes(self) -> bool:
        """Whether none of the differences changes what a rank sends."""
        names = self.differences.keys()
        if not names.isdisjoint(HOSTS) and _arrangement(self.base) != _arrangement(self.other):
            return False
        return names.isdisjoint(OF_BYTES)

    def lines(self) -> list[str]:
        """A line for each difference."""
        return [f"{name} {_shown(one)} and {_shown(two)}" for name, (one, two) in self.differences.items()]


def compare_models(cells: Iterable[CellTable], across_runs: bool = False) -> list[dict[str, Any]]:
    """Compares each cell with a cell of a smaller model under the same strategy with as many workers.

    That is the one which differs in the fewest other settings; of several such, the smallest model's.

    A row has `bytes_ratio` (of what a rank sends a step; `bytes_source` says by which view) and `step_ratio`
    (of step times), both the larger model's over the smaller's. Within a run that took turns in blocks the
    step ratio is the geometric mean over pairs of blocks (`paired`); else the ratio of the medians. Where
    `differences` lists any, `step_ratio` is None, and `bytes_ratio` too if they change what a rank sends.
    `not_recorded` lists settings that a run does not record.

    Args:
        cells: all of one run, or each of a run of its own.
        across_runs: whether each is of a run of its own.
    """
    groups = defaultdict(list)
    for cell in cells:
        if cell.row.get("payload_bytes") is not None:
            groups[cell.row["strategy"], cell.row["world_size"]].append(cell)
    rows = []
    for group in groups.values():
        ordered = sorted(group, key=lambda cell: int(cell.row["payload_bytes"]))
        for large in ordered:
            smaller = [
                cell
                for cell in ordered
                if cell.row["payload_bytes"] < large.row["payload_bytes"]
                # Within a run, shapes of the same model are values of an option: `compare_options`.
                and (across_runs or cell.row["model"] != large.row["model"])
            ]
            pairs = [_pair(small, large, MODEL, across_runs) for small in smaller]
            rows += [_comparison(_closest(pairs))] if pairs else []
    return rows


def compare_strategies(cells: Iterable[CellTable]) -> list[dict[str, Any]]:
    """For each model, every other strategy against all-reduce, in cells of one run.

    A row has `bytes_ratio` (of what all processes send a step, servers too) and `step_ratio` (of step times),
    both over all-reduce's; above 1, all-reduce is cheaper. Both are None as in `compare_models`.
    """
    groups = defaultdict(list)
    for cell in cells:
        groups[cell.row["model"], cell.row["world_size"]].append(cell)
    rows = []
    for group in groups.values():
        bases = [cell for cell in group if cell.row["strategy"] == REFERENCE]
        others = [cell for cell in group if cell.row["strategy"] != REFERENCE]
        if bases:
            rows += [
                _against(_closest([_pair_of_strategies(base, other) for base in bases])) for other in others
            ]
    return rows


def compare_options(cells: Iterable[CellTable]) -> list[dict[str, Any]]:
    """Cells of one run that are alike but for one option: each against the first with another value of it.

    A row has the name of the `option`, its value in the cell that is the base (`small`) and in the other one
    (`large`), numbers in this order of size, and `bytes_ratio` and `step_ratio` of the second over the
    first, as in `compare_models`.
    """
    rows = []
    compared: list[CellTable] = []
    for other in cells:
        bases = set()
        for base in compared:
            option = _only_option(_pair(base, other, (), across_runs=False))
            if option and option not in bases:
                bases.add(option)
                rows.append(_comparison_of_option(option, base, other))
        compared.append(other)
    return rows


def _only_option(pair: _Pair) -> str | None:
    """The name of the only setting in which two cells differ, if it is an option."""
    if len(pair.differences) != 1 or pair.not_recorded:
        return None
    (name,) = pair.differences
    return name if name in OPTION_RULES or name == THREADS else None


def _comparison_of_option(option: str, base: CellTable, other: CellTable) -> dict[str, Any]:
    values = [cell.entry[option] for cell in (base, other)]
    if all(isinstance(value, int | float) for value in values) and values[0] > values[1]:
        base, other = other, base
    compared = _comparison(_pair(base, other, {option}, across_runs=False))
    return {
        "option": "threads" if option == THREADS else option,
        "model": base.row["model"],
        "strategy": base.row["strategy"],
        "world_size": base.row["world_size"],
        "small": base.entry[option],
        "large": other.entry[option],
        "run_id": other.run_id,
        **{
            key: compared[key]
            for key in (
                "small_cell",
                "large_cell",
                "bytes_ratio",
                "bytes_source",
                "step_ratio",
                "step_ratio_ci95",
                "paired",
                "pairs",
            )
        },
    }


def _closest(pairs: Sequence[_Pair]) -> _Pair:
    """The first of the pairs with the fewest differences."""
    return min(pairs, key=lambda pair: len(pair.differences))


def _pair_of_strategies(base: CellTable, other: CellTable) -> _Pair:
    """Settings that only one of two cells of a run has are its strategy's own."""
    own = base.entry.keys() ^ other.entry.keys()
    return _pair(base, other, {"strategy", *OF_STRATEGIES, *own}, across_runs=False)


def _pair(base: CellTable, other: CellTable, compared: Collection[str], across_runs: bool) -> _Pair:
    ignored = NOT_SETTINGS.union(compared, BLOCKS if across_runs else ())
    settings, others = (_settings(cell, ignored, across_runs) for cell in (base, other))
    expected = {*settings, *others, *(ENVIRONMENT if across_runs else ())}
    return _Pair(
        base=base,
        other=other,
        across_runs=across_runs,
        differences={
            name: (value, others[name])
            for name, value in settings.items()
            if name in others and not _alike(name, value, others[name])
        },
        not_recorded=[
            f"{name} in {cell.run_id}"
            for cell, known in ((base, settings), (other, others))
            for name in sorted(expected - known.keys())
        ],
    )


def _settings(cell: CellTable, ignored: Collection[str], across_runs: bool) -> dict[str, Any]:
    """Settings on which a cell's step times may depend, as far as they are known."""
    settings = {name: value for name, value in cell.entry.items() if name not in ignored}
    if settings.get("emulated_rate_bits_per_s"):
        rates = settings["emulated_rate_bits_per_s"]
        settings["emulated_rate_bits_per_s"] = {host: rates[host] for host in _hosts(cell) if host in rates}
    if across_runs:
        environment = {**cell.environment, **(cell.environment.get("versions") or {})}
        if environment.get("cpu") is None:  # it could not be read; a quota of None is none
            environment.pop("cpu", None)
        settings |= {name: value for name, value in environment.items() if name not in NOT_OF_THE_MACHINE}
        if cell.row["goodput_bytes_per_s"] is not None:
            settings["goodput_bytes_per_s"] = cell.row["goodput_bytes_per_s"]
    return settings


def _alike(name: str, value: Any, other: Any) -> bool:
    if name == "goodput_bytes_per_s":
        return math.isclose(value, other, rel_tol=GOODPUT_TOLERANCE)
    return bool(value == other)


def _hosts(cell: CellTable) -> list[str]:
    """The host of each rank, then that of each server."""
    return [*(cell.entry.get("hosts") or []), *(cell.entry.get("server_hosts") or [])]


def _arrangement(cell: CellTable) -> list[int]:
    """Which ranks and servers share a host, whatever the hosts' names."""
    hosts = _hosts(cell)
    return [hosts.index(host) for host in hosts]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return f"[{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}]"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _against(pair: _Pair) -> dict[str, Any]:
    base, other, compared = pair.base, pair.other, _comparison(pair)
    bytes_ratio, bytes_source = _ratio_of_all(other.row, base.row) if pair.same_bytes else (None, None)
    return {
        "model": base.row["model"],
        "world_size": base.row["world_size"],
        "strategy": other.row["strategy"],
        "servers": other.row.get("servers"),
        "placement": other.row.get("placement"),
        "consistency": other.row.get("consistency"),
        "over": base.row["strategy"],
        "cell": other.row["cell"],
        "over_cell": base.row["cell"],
        "run_id": other.run_id,
        "bytes_ratio": bytes_ratio,
        "bytes_source": bytes_source,
        **{
            key: compared[key]
            for key in ("step_ratio", "step_ratio_ci95", "paired", "pairs", "differences", "not_recorded")
        },
    }


def _all_tx_bytes(row: dict[str, Any], source: str) -> float | None:
    """Bytes that all processes send in a step; a server sends what its workers receive."""
    sent, received = row[f"{source}_tx_bytes"], row[f"{source}_rx_bytes"]
    if not strategy_of(row).has_servers:
        received = 0.0
    return None if sent is None or received is None else float(row["world_size"] * (sent + received))


def _ratio_of_all(other: dict[str, Any], base: dict[str, Any]) -> tuple[float | None, str | None]:
    """Bytes that all processes send, by TCP's count if both cells have one, else by prediction."""
    for source in ("tcp", "predicted"):
        sent, base_sent = _all_tx_bytes(other, source), _all_tx_bytes(base, source)
        if sent is not None and base_sent:
            return sent / base_sent, source
    return None, None


def _comparison(pair: _Pair) -> dict[str, Any]:
    small, large = pair.base, pair.other
    bytes_ratio, bytes_source = _bytes_ratio(small.row, large.row) if pair.same_bytes else (None, None)
    return {
        "strategy": small.row["strategy"],
        "world_size": small.row["world_size"],
        "small": small.row["model"],
        "large": large.row["model"],
        "small_cell": small.row["cell"],
        "large_cell": large.row["cell"],
        "small_run_id": small.run_id,
        "large_run_id": large.run_id,
        "bytes_ratio": bytes_ratio,
        "bytes_source": bytes_source,
        **(_no_step_ratio() if pair.differences else step_ratio(small, large, pair.across_runs)),
        "differences": pair.lines(),
        "not_recorded": pair.not_recorded,
    }


def _bytes_ratio(small: dict[str, Any], large: dict[str, Any]) -> tuple[float | None, str | None]:
    """TCP's count if both cells have one, else the prediction."""
    for source in ("tcp", "predicted"):
        of_small, of_large = small[f"{source}_tx_bytes"], large[f"{source}_tx_bytes"]
        if of_small and of_large is not None:
            return of_large / of_small, source
    return None, None


def _no_step_ratio() -> dict[str, Any]:
    return {"step_ratio": None, "step_ratio_ci95": None, "paired": False, "pairs": None}


def step_ratio(small: CellTable, large: CellTable, across_runs: bool) -> dict[str, Any]:
    """The step time of one cell over that of another: `step_ratio`, its interval and how it was measured."""
    paired = not across_runs and small.block_means_s() is not None
    numerators, denominators = _paired_blocks(small, large) if paired else _all_steps(small, large)
    known = len(numerators) > 0 and len(denominators) > 0
    ratio, interval = (
        (paired_ratio if paired else unpaired_ratio)(numerators, denominators) if known else (None, None)
    )
    return {
        "step_ratio": ratio,
        "step_ratio_ci95": list(interval) if interval else None,
        "paired": paired,
        "pairs": len(numerators) if paired else None,
    }


def _paired_blocks(small: CellTable, large: CellTable) -> tuple[Floats, Floats]:
    pairs = pd.concat([large.block_means_s(), small.block_means_s()], axis=1, join="inner")
    return _floats(pairs.iloc[:, 0]), _floats(pairs.iloc[:, 1])


def _all_steps(small: CellTable, large: CellTable) -> tuple[Floats, Floats]:
    return _floats(large.step_s), _floats(small.step_s)


def _floats(series: pd.Series[float]) -> Floats:
    return np.asarray(series, dtype=np.float64)
