"""Predictions from runs: brackets of a step on other networks, and what was measured beside them.

Compute time is that of a model's baseline, one worker by itself. A run without baselines gives the compute
time of its cells, unless these shared cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distsqz.errors import InvalidValue
from distsqz.report.comparisons import BLOCKS, GOODPUT_TOLERANCE
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.speedups import ALIKE, hosts_of, share_cores
from distsqz.report.tables import equal_rate
from distsqz.strategies.registry import strategy_named, synchronising
from distsqz.strategies.strategy import Strategy
from distsqz.theory.prediction import (
    LEAST_SUSTAINED_BITS_PER_S,
    Bracket,
    goodput_bytes_per_s,
    links_busy_s,
    rate_bits_per_s,
    step_s,
    sufficient_rate_bits_per_s,
)

ARRANGEMENTS: Mapping[str, Strategy] = {
    arrangement: strategy
    for strategy in (strategy_named(name)() for name in synchronising())
    for arrangement in strategy.arrangements()
}
"""The strategies by the arrangements of their processes: `ps-dedicated` is a parameter server with hosts of
its own."""

SAME = ("payload_bytes", "device", *(name for name in ALIKE if name not in BLOCKS and name != "batch_size"))
"""Keys of a cell's row that must equal the baseline's, beside the batch size, for a fair comparison."""
BESIDE = ("measured_step_s", "measured_wait_s", "own_hosts_step_s", "measured_in", "measured_run_id")
"""Keys of a row of `predict` that hold what was measured in a cell with the predicted settings."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a model computes on one worker by itself, and what it must synchronise."""

    model: str
    payload_bytes: int
    batch_size: int
    measured_batch_size: int
    """The batch size at which the compute time was measured. At others it is scaled, and is no bound."""
    compute_s: float
    source: str
    """The cell that the compute time is from."""
    run_id: str
    settings: Mapping[str, Any]
    """The values of the keys in `SAME`."""

    @property
    def scaled(self) -> bool:
        """Whether the compute time was not measured at this batch size."""
        return self.batch_size != self.measured_batch_size

    def at_batch(self, batch_size: int | None) -> Baseline:
        """The baseline at another batch size, in proportion."""
        if batch_size is None:
            return self
        scale = batch_size / self.batch_size
        return replace(self, batch_size=batch_size, compute_s=scale * self.compute_s)


@dataclass(frozen=True, kw_only=True)
class Links:
    """The link of every host of a network, all alike."""

    goodput_bytes_per_s: float
    """TCP payload that a link carries in each direction, a second."""
    rate_bits_per_s: int | None = None
    """The rate in each direction; None where only the goodput was measured."""

    @classmethod
    def of_rate(cls, bits_per_s: int) -> Links:
        """Links of a known rate, which carry full Ethernet frames."""
        return cls(goodput_bytes_per_s=goodput_bytes_per_s(bits_per_s), rate_bits_per_s=bits_per_s)

    @property
    def sustained(self) -> bool:
        """Whether training is known to sustain the share of the goodput that the upper end allows for."""
        if self.rate_bits_per_s is not None:
            return self.rate_bits_per_s >= LEAST_SUSTAINED_BITS_PER_S
        least = LEAST_SUSTAINED_BITS_PER_S * (1 - GOODPUT_TOLERANCE)
        return rate_bits_per_s(self.goodput_bytes_per_s) >= least

    def are_of(self, row: dict[str, Any]) -> bool:
        """Whether a measured cell's links are the same: by their rates, or else by what they carried."""
        if row.get("emulated_rate_bits_per_s"):
            return self.rate_bits_per_s == equal_rate(row)
        carried = row["goodput_bytes_per_s"]
        return carried is not None and math.isclose(
            carried, self.goodput_bytes_per_s, rel_tol=GOODPUT_TOLERANCE
        )


def baselines_of(runs: Sequence[MeasuredRun], models: Sequence[str]) -> list[Baseline]:
    """The first baseline of each model in the runs; empty if no run has one.

    Raises:
        InvalidValue: none of the runs tells what one of `models` computes.
    """
    found: dict[str, Baseline] = {}
    for each in (*_alone(runs), *_uncrowded(runs)):
        found.setdefault(each.model, each)
    for model in models if found else ():
        if model not in found:
            raise InvalidValue("models", model, f"not measured in these runs; choose of {', '.join(found)}")
    return [found[model] for model in models or found] if found else []


def measured_links(runs: Sequence[MeasuredRun]) -> list[Links]:
    """The links that the runs measured between hosts, slowest first, each once.

    Emulated links have the rate that they are shaped to; others the goodput of the run's slowest link before
    training.
    """
    found: list[Links] = []
    for row in (row for run in runs for row in run.rows if (hosts_of(row) or 0) > 1):
        if any(links.are_of(row) for links in found):
            continue
        if rate := equal_rate(row):
            found.append(Links.of_rate(rate))
        elif not row.get("emulated_rate_bits_per_s") and row["goodput_bytes_per_s"]:
            found.append(Links(goodput_bytes_per_s=row["goodput_bytes_per_s"]))
    return sorted(found, key=lambda links: links.goodput_bytes_per_s)


def predict(
    runs: Sequence[MeasuredRun],
    baselines: Sequence[Baseline],
    strategies: Sequence[str],
    workers: Sequence[int],
    networks: Sequence[Links],
    servers: int = 1,
) -> list[dict[str, Any]]:
    """A row for each model, strategy, number of hosts and network.

    A row has the bracket of the step (`step_low_s`, `step_high_s`), of images a second and of the speed-up
    over one worker; the rate from which communication does not matter (`enough_low_bits_per_s`,
    `enough_high_bits_per_s`); `links_sustained`, whether training is known to use such links as far as the
    upper end assumes; `low_is_bound` and `high_is_bound`, whether the ends of the step are bounds;
    `surely_fastest`, whether no other strategy can be faster; and, where a cell of the runs is the same, what
    it measured (`BESIDE`): its step, and that of hosts of their own.

    Args:
        runs: the runs, for what was measured.
        baselines: the models.
        strategies: `ps` has a server beside each worker, `ps-dedicated` servers on hosts of their own.
        workers: numbers of hosts with a worker each.
        networks: the links of every host.
        servers: number of dedicated servers.
    """
    rows = []
    for baseline in baselines:
        for hosts in workers:
            for links in networks:
                goodput = links.goodput_bytes_per_s
                steps = {
                    name: step_s(baseline.compute_s, communication_s(name, baseline, hosts, goodput, servers))
                    for name in strategies
                }
                bounds = links.sustained and not baseline.scaled
                for name, step in steps.items():
                    others = [other for key, other in steps.items() if key != name]
                    fastest = bounds and bool(others) and all(step.below(other) for other in others)
                    rows.append(
                        {
                            **_row(baseline, name, hosts, links, step, servers),
                            "surely_fastest": fastest,
                            **_measured(runs, baseline, name, hosts, links, servers),
                        }
                    )
    return rows


def communication_s(
    arrangement: str, baseline: Baseline, hosts: int, goodput: float, servers: int
) -> Bracket:
    """Time that a step's communication keeps the links busy."""
    strategy = ARRANGEMENTS[arrangement]
    loads = strategy.planned_load_by_host(
        baseline.payload_bytes, strategy.arranged(arrangement, hosts, servers)
    )
    return links_busy_s(loads.values(), goodput, full_duplex=strategy.is_full_duplex)


def _row(
    baseline: Baseline, strategy: str, hosts: int, links: Links, step: Bracket, servers: int
) -> dict[str, Any]:
    images = hosts * baseline.batch_size
    per_s, gain = step.inverted(images), step.inverted(hosts * baseline.compute_s)
    enough = sufficient_rate_bits_per_s(
        baseline.compute_s, communication_s(strategy, baseline, hosts, 1.0, servers)
    )
    return {
        "model": baseline.model,
        "strategy": strategy,
        "world_size": hosts,
        "rate_bits_per_s": links.rate_bits_per_s,
        "goodput_bytes_per_s": links.goodput_bytes_per_s,
        "batch_size": baseline.batch_size,
        "compute_s": baseline.compute_s,
        "step_low_s": step.low,
        "step_high_s": step.high,
        "samples_low_per_s": per_s.low,
        "samples_high_per_s": per_s.high,
        "speedup_low_ratio": gain.low,
        "speedup_high_ratio": gain.high,
        "enough_low_bits_per_s": enough.low,
        "enough_high_bits_per_s": enough.high,
        "links_sustained": links.sustained,
        "low_is_bound": not baseline.scaled,
        "high_is_bound": links.sustained and not baseline.scaled,
    }


def _measured(
    runs: Sequence[MeasuredRun],
    baseline: Baseline,
    strategy: str,
    hosts: int,
    links: Links,
    servers: int,
) -> dict[str, Any]:
    """The measurements of a cell with the predicted settings; nulls if the runs have none.

    The baseline's own run comes first.
    """
    for run in sorted(runs, key=lambda run: run.run_id != baseline.run_id):
        own = {row["cell"]: row["own_hosts_step_s"] for row in run.speedups}
        for row in run.rows:
            if row["step_s"] is None or not links.are_of(row):
                continue
            if _same(row, baseline, strategy, hosts, servers):
                own_s = own.get(row["cell"])
                values = row["step_s"], row["wait_s"], own_s, row["cell"], run.run_id
                return dict(zip(BESIDE, values, strict=True))
    return dict.fromkeys(BESIDE)


def _same(row: dict[str, Any], baseline: Baseline, arrangement: str, hosts: int, servers: int) -> bool:
    return (
        _settings(row) == baseline.settings
        and row.get("batch_size") == baseline.batch_size
        and ARRANGEMENTS[arrangement].is_arranged(arrangement, row, hosts, servers)
        and row["world_size"] == hosts == hosts_of(row)
    )


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in SAME}


def _alone(runs: Sequence[MeasuredRun]) -> Iterator[Baseline]:
    for run in runs:
        for cell in run.baselines:
            if cell.row["step_s"] is not None and cell.row["payload_bytes"] is not None:
                yield _baseline(cell.row, cell.row["step_s"])


def _uncrowded(runs: Sequence[MeasuredRun]) -> Iterator[Baseline]:
    """Cells whose workers had their cores to themselves, a worker a host."""
    for run in runs:
        for row in run.rows:
            apart = hosts_of(row) == row["world_size"] and not share_cores(row)
            known = row["compute_s"] is not None and row["payload_bytes"] is not None
            if apart and known and not row["oversubscribed"]:
                yield _baseline(row, row["compute_s"])


def _baseline(row: dict[str, Any], compute_s: float) -> Baseline:
    return Baseline(
        model=row["model"],
        payload_bytes=row["payload_bytes"],
        batch_size=row["batch_size"],
        measured_batch_size=row["batch_size"],
        compute_s=compute_s,
        source=row["cell"],
        run_id=row["run_id"],
        settings=_settings(row),
    )
