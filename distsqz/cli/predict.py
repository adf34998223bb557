"""Predicts a step on other networks from what runs measured: `distsqz predict [RUN ...]`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from distsqz.cli.report import find_runs
from distsqz.errors import RequestError
from distsqz.lab.rate import format_rate, parse_rate
from distsqz.report.formats import prose, ratio, render, seconds, to_json
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.predictions import Baseline, Strategy, baselines_of, predict
from distsqz.report.section import Format

ANY_RATE = 10**15
NOTE = (
    "These are bounds, not a fit: a step takes at least the longer of computing and communication (perfect "
    "overlap, links always full) and at most their sum (none, links at the 93% of their goodput that "
    "training sustained; under ps a link's two directions do not overlap either). They leave out latency and "
    "late hosts. Computing is as on one worker by itself, bytes follow from the strategy, and links carry "
    "full Ethernet frames of TCP."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz predict`."""

    run: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]")] = ()
    """Run directories, or ids of runs under --runs; the newest by default."""
    rates: tuple[str, ...] = ("100mbit", "1gbit", "10gbit")
    """Rates of every host's link, in each direction."""
    workers: tuple[int, ...] = ()
    """Numbers of hosts, with a worker on each. By default as many as the runs have."""
    models: tuple[str, ...] = ()
    """Models of the runs. By default all that have a baseline."""
    strategies: tuple[Strategy, ...] = ("ddp", "ps")
    """Strategies: ddp is all-reduce; ps is a parameter server with a shard beside each worker; ps-dedicated
    has its servers on hosts of their own."""
    servers: int = 1
    """For ps-dedicated: number of servers."""
    batch_size: int | None = None
    """Number of images for each worker in a step. By default that of the runs; computing takes time in
    proportion."""
    runs: Path = Path("runs")
    """Directory in which runs are found by id."""
    format: Format = "table"
    """Format on stdout."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if min(self.workers, default=2) < 2:
            raise RequestError(f"--workers {min(self.workers)}: must be at least 2, which have to agree")
        for name, value in (("batch-size", self.batch_size), ("servers", self.servers)):
            if value is not None and value < 1:
                raise RequestError(f"--{name} {value}: must be at least 1")


def main(options: Options) -> None:
    """Prints the brackets, and what was measured beside them."""
    rates = [parse_rate(rate, most=ANY_RATE) for rate in options.rates]
    runs = [MeasuredRun(run) for run in find_runs(options.run, options.runs)]
    if any(run.shipped for run in runs):
        raise RequestError("RUN: some only sent models; name runs that trained")
    baselines = [each.at_batch(options.batch_size) for each in baselines_of(runs, options.models)]
    workers = options.workers or sorted({row["world_size"] for run in runs for row in run.rows} - {1})
    rows = predict(runs, baselines, options.strategies, workers, rates, options.servers)
    findings = [finding for baseline in baselines for finding in _findings(baseline, rows)]
    if options.format == "json":
        print(to_json({"predictions": rows, "baselines": [vars(each) for each in baselines], "note": NOTE}))
        return
    if options.format == "csv":
        print(render(pd.DataFrame(rows, dtype=object), "csv"))
        return
    table = pd.DataFrame([_shown(row) for row in rows], dtype=object).dropna(axis=1, how="all")
    title = "A step on hosts of their own, from perfect overlap of computing and communication to none"
    sources = "; ".join(
        f"{each.model}: {each.compute_s * 1e3:,.1f} ms for {each.batch_size} images "
        f"({each.source} of {each.run_id})"
        for each in baselines
    )
    parts = [prose(findings, options.format), render(table, options.format, title, 4)]
    print("\n\n".join([*parts, prose([NOTE, f"Computing alone: {sources}."], options.format)]))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as people read it: each bracket in one column, each time in its own unit."""
    bracket = "{} to {}".format
    return {
        **{name: row[name] for name in ("model", "strategy", "world_size")},
        "rate": format_rate(row["rate_bits_per_s"]),
        "step": bracket(seconds(row["step_low_s"]), seconds(row["step_high_s"])),
        "images/s": bracket(f"{row['samples_low_per_s']:,.1f}", f"{row['samples_high_per_s']:,.1f}"),
        "speed-up": bracket(ratio(row["speedup_low_ratio"]), ratio(row["speedup_high_ratio"])),
        "measured": row["measured_step_s"] and seconds(row["measured_step_s"]),
        "own hosts": row["own_hosts_step_s"] and seconds(row["own_hosts_step_s"]),
    }


def _findings(baseline: Baseline, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each number of hosts: the speed-up at each rate, and the rate that is enough."""
    groups: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["model"] == baseline.model:
            groups[row["world_size"]].append(row)
    findings = [_finding(baseline.model, hosts, of_hosts) for hosts, of_hosts in groups.items()]
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    told = any(row["surely_fastest"] for row in rows if row["model"] == baseline.model)
    if len(names) > 1 and not told:
        findings.append(
            f"These bounds do not tell which of {', '.join(names)} is fastest for {baseline.model}."
        )
    return findings


def _finding(model: str, hosts: int, rows: Sequence[dict[str, Any]]) -> str:
    rates = dict.fromkeys(row["rate_bits_per_s"] for row in rows)
    gains = []
    for rate in rates:
        at_rate = [row for row in rows if row["rate_bits_per_s"] == rate]
        low, high = (_extreme(at_rate, f"speedup_{end}_ratio", end) for end in ("low", "high"))
        slower = ", slower than one machine" if high < 1 else ""
        winner = next((f", {row['strategy']} fastest" for row in at_rate if row["surely_fastest"]), "")
        gains.append(f"{ratio(low)} to {ratio(high)} at {format_rate(rate)}{slower}{winner}")
    least, most = (_extreme(rows, f"enough_{end}_bits_per_s", end) for end in ("low", "high"))
    return (
        f"{model} on {hosts} hosts trains as many times the images a second of one: {'; '.join(gains)}. "
        f"Communication stops mattering (90% efficiency) between {_rate(least)} (perfect overlap) and "
        f"{_rate(most)} (none)."
    )


def _extreme(rows: Sequence[dict[str, Any]], name: str, end: str) -> float:
    values = [float(row[name]) for row in rows]
    return min(values) if end == "low" else max(values)


def _rate(bits_per_s: float) -> str:
    return f"{bits_per_s / 1e9:.3g} Gbit/s" if bits_per_s >= 1e9 else f"{bits_per_s / 1e6:.3g} Mbit/s"
