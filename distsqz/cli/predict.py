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
from distsqz.report.predictions import ARRANGEMENTS, Baseline, Links, baselines_of, measured_links, predict
from distsqz.report.section import Format

ANY_RATE = 10**15
EXAMPLES = ("100mbit", "1gbit", "10gbit")
"""Rates that are shown where none are asked for and the runs measured no link."""
NOTE = (
    "A step takes at least the longer of computing and communication (perfect overlap, links always full) "
    "and at most their sum (none, links at the 93% of their goodput that training sustained at 100 Mbit/s "
    "and 1 Gbit/s; under ps a link's two directions do not overlap either). They leave out latency and late "
    "hosts. Computing is as on one worker by itself, bytes follow from the strategy, and links whose goodput "
    "was not measured carry full Ethernet frames of TCP."
)
SLOW = (
    "Below 100 Mbit/s the upper end is no bound: the 93% was measured at 100 Mbit/s and 1 Gbit/s. At "
    "20 Mbit/s all-reduce sustained as little as 89%, and steps took up to 11% longer than the upper end, as "
    "streams start anew in every step and acknowledgements share the link with the other direction's data "
    "(benchmarks/prediction)."
)
SCALED = (
    "Neither end is a bound at a batch size that was not measured: computing time is taken to be in "
    "proportion to the batch size, but a step has parts that do not grow with it, and batches of another "
    "size may use cores and caches better or worse. For bounds, measure at that batch size."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz predict`."""

    run: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]")] = ()
    """Run directories, or ids of runs under --runs; the newest by default."""
    rates: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="RATE [RATE ...]")] = None
    """Rates of every host's link, in each direction. By default the links of the runs: the rate of emulated
    ones, the measured goodput of others; 100mbit, 1gbit and 10gbit if the runs used no link."""
    workers: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INT [INT ...]")] = None
    """Numbers of hosts, with a worker on each. By default as many as the runs have."""
    models: tuple[str, ...] = ()
    """Models of the runs. By default all that have a baseline."""
    strategies: tuple[str, ...] = ("ddp", "ps")
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
        """Raises RequestError for a value out of range, or for a list without any."""
        for name, values, example in (
            ("rates", self.rates, "100mbit 1gbit"),
            ("workers", self.workers, "2 4 8"),
            ("strategies", self.strategies, "ddp ps"),
        ):
            if values is not None and not values:
                raise RequestError(f"--{name}: give at least one, such as --{name} {example}")
        for name in self.strategies:
            if name not in ARRANGEMENTS:
                raise RequestError(f"--strategies {name}: choose {' or '.join(ARRANGEMENTS)}")
        if self.workers and min(self.workers) < 2:
            raise RequestError(f"--workers {min(self.workers)}: must be at least 2, which have to agree")
        for name, value in (("batch-size", self.batch_size), ("servers", self.servers)):
            if value is not None and value < 1:
                raise RequestError(f"--{name} {value}: must be at least 1")


def main(options: Options) -> None:
    """Prints the brackets, and what was measured beside them."""
    rates = options.rates and [parse_rate(rate, most=ANY_RATE) for rate in options.rates]
    runs = [MeasuredRun(run) for run in find_runs(options.run, options.runs)]
    if any(run.shipped for run in runs):
        raise RequestError("RUN: some only sent models; name runs that trained")
    baselines = [each.at_batch(options.batch_size) for each in baselines_of(runs, options.models)]
    if not baselines:
        raise RequestError(
            "RUN: no run tells what a model computes with its cores to itself; make one with "
            "`distsqz compare`"
        )
    workers = options.workers or sorted({row["world_size"] for run in runs for row in run.rows} - {1})
    if not workers:
        raise RequestError("--workers: the runs have no cell of several workers; give numbers, such as 2 4 8")
    measured = measured_links(runs)
    networks = [Links.of_rate(rate) for rate in rates or ()] or measured
    networks = networks or [Links.of_rate(parse_rate(rate)) for rate in EXAMPLES]
    rows = predict(runs, baselines, options.strategies, workers, networks, options.servers)
    if options.format == "json":
        notes = _notes(rows, baselines)
        print(to_json({"predictions": rows, "baselines": [vars(each) for each in baselines], "notes": notes}))
    elif options.format == "csv":
        print(render(pd.DataFrame(rows, dtype=object), "csv"))
    else:
        notes = _notes(rows, baselines)
        if not rates and not measured:
            notes.append("The runs used no link between hosts: the rates are examples; --rates gives others.")
        print(_text(rows, baselines, notes, options.format))


def _text(
    rows: Sequence[dict[str, Any]], baselines: Sequence[Baseline], notes: list[str], fmt: Format
) -> str:
    """The findings, the table and the notes below it."""
    findings = [finding for baseline in baselines for finding in _findings(baseline, rows)]
    table = pd.DataFrame([_shown(row) for row in rows], dtype=object).dropna(axis=1, how="all")
    title = "A step on hosts of their own, from perfect overlap of computing and communication to none"
    sources = "; ".join(map(_source, baselines))
    parts = [prose(findings, fmt), render(table, fmt, title, 4)]
    return "\n\n".join([*parts, prose([*notes, f"Computing alone: {sources}."], fmt)])


def _notes(rows: Sequence[dict[str, Any]], baselines: Sequence[Baseline]) -> list[str]:
    """Sentences about what the ends of the brackets mean, and where they are no bounds."""
    scaled = any(baseline.scaled for baseline in baselines)
    notes = [NOTE if scaled else f"These are bounds, not a fit: {NOTE[0].lower()}{NOTE[1:]}"]
    if scaled:
        notes.append(SCALED)
    if not all(row["links_sustained"] for row in rows):
        notes.append(SLOW)
    return notes


def _source(baseline: Baseline) -> str:
    scaled = f", in proportion from {baseline.measured_batch_size}" if baseline.scaled else ""
    return (
        f"{baseline.model}: {baseline.compute_s * 1e3:,.1f} ms for {baseline.batch_size} images{scaled} "
        f"({baseline.source} of {baseline.run_id})"
    )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as people read it: each bracket in one column, each time in its own unit."""
    bracket = "{} to {}".format
    return {
        **{name: row[name] for name in ("model", "strategy", "world_size")},
        "links": _links(row),
        "step": bracket(seconds(row["step_low_s"]), seconds(row["step_high_s"])),
        "images/s": bracket(f"{row['samples_low_per_s']:,.1f}", f"{row['samples_high_per_s']:,.1f}"),
        "speed-up": bracket(ratio(row["speedup_low_ratio"]), ratio(row["speedup_high_ratio"])),
        "measured": row["measured_step_s"] and seconds(row["measured_step_s"]),
        "own hosts": row["own_hosts_step_s"] and seconds(row["own_hosts_step_s"]),
        "measured in": row["measured_run_id"],
    }


def _findings(baseline: Baseline, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each strategy and number of hosts: the speed-up over each link, and the rate that is
    enough.
    """
    of_model = [row for row in rows if row["model"] == baseline.model]
    groups: defaultdict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in of_model:
        groups[row["world_size"], row["strategy"]].append(row)
    findings = [_finding(group) for group in groups.values()]
    if len({row["strategy"] for row in of_model}) > 1 and not any(row["surely_fastest"] for row in of_model):
        findings.append(f"These brackets do not tell which strategy is fastest for {baseline.model}.")
    return findings


def _finding(rows: Sequence[dict[str, Any]]) -> str:
    """The sentence about one model, strategy and number of hosts, from its rows."""
    first = rows[0]
    gains = []
    for row in rows:
        low, high = row["speedup_low_ratio"], row["speedup_high_ratio"]
        slower = ", slower than one machine" if high < 1 and row["low_is_bound"] else ""
        fastest = ", surely the fastest strategy" if row["surely_fastest"] else ""
        gains.append(f"{ratio(low)} to {ratio(high)} at {_links(row)}{slower}{fastest}")
    return (
        f"{first['model']} on {first['world_size']} hosts under {first['strategy']} trains as many times the "
        f"images a second of one: {'; '.join(gains)}. "
        f"Communication stops mattering (90% efficiency) between {_rate(first['enough_low_bits_per_s'])} "
        f"(perfect overlap) and {_rate(first['enough_high_bits_per_s'])} (none)."
    )


def _links(row: dict[str, Any]) -> str:
    """The links of a row in words: their rate, or else their measured goodput."""
    if row["rate_bits_per_s"] is not None:
        return format_rate(row["rate_bits_per_s"])
    return f"{_rate(row['goodput_bytes_per_s'] * 8)} of goodput"


def _rate(bits_per_s: float) -> str:
    return f"{bits_per_s / 1e9:.3g} Gbit/s" if bits_per_s >= 1e9 else f"{bits_per_s / 1e6:.3g} Mbit/s"
