"""Predictions from runs: brackets of a step on other networks, and what was measured beside them.

Compute time is that of a model's baseline, one worker by itself. A run without baselines gives the compute
time of its cells, unless these shared cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distsqz.errors import InvalidValue, RequestError
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.speedups import hosts_of, share_cores
from distsqz.theory.prediction import (
    Bracket,
    all_reduce_s,
    goodput_bytes_per_s,
    parameter_server_s,
    step_s,
    sufficient_rate_bits_per_s,
)

Strategy = Literal["ddp", "ps", "ps-dedicated"]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a model computes on one worker by itself, and what it must synchronise."""

    model: str
    payload_bytes: int
    batch_size: int
    compute_s: float
    source: str
    """The cell that the compute time is from."""
    run_id: str

    def at_batch(self, batch_size: int | None) -> Baseline:
        """The baseline at another batch size, in proportion."""
        if batch_size is None or batch_size == self.batch_size:
            return self
        scale = batch_size / self.batch_size
        return Baseline(
            model=self.model,
            payload_bytes=self.payload_bytes,
            batch_size=batch_size,
            compute_s=scale * self.compute_s,
            source=f"{self.source}, scaled from {self.batch_size} images",
            run_id=self.run_id,
        )


def baselines_of(runs: Sequence[MeasuredRun], models: Sequence[str]) -> list[Baseline]:
    """The baseline of each model, the first that the runs have.

    Raises:
        RequestError: none of the runs tells what a model computes.
    """
    found: dict[str, Baseline] = {}
    for each in (*_alone(runs), *_uncrowded(runs)):
        found.setdefault(each.model, each)
    if not found:
        raise RequestError(
            "RUN: no run tells what a model computes with its cores to itself; make one with "
            "`distsqz compare`"
        )
    for model in models:
        if model not in found:
            raise InvalidValue("models", model, f"not measured in these runs; choose of {', '.join(found)}")
    return [found[model] for model in models or found]


def predict(
    runs: Sequence[MeasuredRun],
    baselines: Sequence[Baseline],
    strategies: Sequence[Strategy],
    workers: Sequence[int],
    rates_bits_per_s: Sequence[int],
    servers: int = 1,
) -> list[dict[str, Any]]:
    """A row for each model, strategy, number of hosts and rate.

    A row has the bracket of the step (`step_low_s`, `step_high_s`), of images a second and of the speed-up
    over one worker; the rate from which communication does not matter (`enough_low_bits_per_s`,
    `enough_high_bits_per_s`); `surely_fastest`, whether no other strategy can be faster; and, where a cell of
    the runs is the same, its measured step and that of hosts of their own.

    Args:
        runs: the runs, for what was measured.
        baselines: the models.
        strategies: `ps` has a server beside each worker, `ps-dedicated` servers on hosts of their own.
        workers: numbers of hosts with a worker each.
        rates_bits_per_s: rates of every link, in each direction.
        servers: number of dedicated servers.
    """
    rows = []
    for baseline in baselines:
        for hosts in workers:
            for rate in rates_bits_per_s:
                goodput = goodput_bytes_per_s(rate)
                steps = {
                    name: step_s(baseline.compute_s, communication_s(name, baseline, hosts, goodput, servers))
                    for name in strategies
                }
                for name, step in steps.items():
                    others = [other for key, other in steps.items() if key != name]
                    rows.append(
                        {
                            **_row(baseline, name, hosts, rate, step, servers),
                            "surely_fastest": bool(others) and all(step.below(other) for other in others),
                            **_measured(runs, baseline, name, hosts, rate, servers),
                        }
                    )
    return rows


def communication_s(
    strategy: Strategy, baseline: Baseline, hosts: int, goodput: float, servers: int
) -> Bracket:
    """Time that a step's communication keeps the links busy."""
    if strategy == "ddp":
        return all_reduce_s(baseline.payload_bytes, hosts, goodput)
    return parameter_server_s(
        baseline.payload_bytes, hosts, goodput, dedicated=servers if strategy == "ps-dedicated" else 0
    )


def _row(
    baseline: Baseline, strategy: Strategy, hosts: int, rate: int, step: Bracket, servers: int
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
        "rate_bits_per_s": rate,
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
    }


def _measured(
    runs: Sequence[MeasuredRun], baseline: Baseline, strategy: Strategy, hosts: int, rate: int, servers: int
) -> dict[str, Any]:
    """What a cell of the runs measured that is the same as the predicted one; nulls where there is none."""
    for run in runs:
        own = {row["cell"]: row["own_hosts_step_s"] for row in run.speedups}
        for row in run.rows:
            if _same(row, baseline, strategy, hosts, rate, servers):
                return {
                    "measured_step_s": row["step_s"],
                    "measured_wait_s": row["wait_s"],
                    "own_hosts_step_s": own.get(row["cell"]),
                    "measured_in": row["cell"],
                }
    return dict.fromkeys(("measured_step_s", "measured_wait_s", "own_hosts_step_s", "measured_in"))


def _same(
    row: dict[str, Any], baseline: Baseline, strategy: Strategy, hosts: int, rate: int, servers: int
) -> bool:
    placement = {"ddp": None, "ps": "colocated", "ps-dedicated": "dedicated"}[strategy]
    rates = {*(row.get("emulated_rate_bits_per_s") or {}).values()}
    return (
        row["model"] == baseline.model
        and row["strategy"] == strategy.partition("-")[0]
        and row.get("placement") == placement
        and row.get("servers") in (None, {"ps": hosts, "ps-dedicated": servers}.get(strategy))
        and row["world_size"] == hosts == hosts_of(row)
        and row.get("batch_size") == baseline.batch_size
        and row.get("consistency") in (None, "sync")
        and not row.get("backup_workers")
        and rates == {rate}
    )


def _alone(runs: Sequence[MeasuredRun]) -> Iterator[Baseline]:
    for run in runs:
        for cell in run.baselines:
            if cell.row["step_s"] is not None:
                yield _baseline(cell.row, cell.row["step_s"])


def _uncrowded(runs: Sequence[MeasuredRun]) -> Iterator[Baseline]:
    """Cells whose workers had their cores to themselves, a worker a host."""
    for run in runs:
        for row in run.rows:
            apart = hosts_of(row) == row["world_size"] and not share_cores(row)
            if apart and row["compute_s"] is not None and not row["oversubscribed"]:
                yield _baseline(row, row["compute_s"])


def _baseline(row: dict[str, Any], compute_s: float) -> Baseline:
    return Baseline(
        model=row["model"],
        payload_bytes=row["payload_bytes"],
        batch_size=row["batch_size"],
        compute_s=compute_s,
        source=row["cell"],
        run_id=row["run_id"],
    )
