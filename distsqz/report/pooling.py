"""Pools sessions: comparisons of the same cells that were measured several times, on one machine or on more.

A session's interval says how far its own blocks scatter. What another day, host or processor changes shows
only between sessions, so several of them are taken as a sample: the pooled ratio is the geometric mean of the
sessions' ratios, its interval Student's t over their logarithms. Sessions count alike, however long they are.

Source: Student, "The Probable Error of a Mean" (1908).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy import special

from distsqz.report.bootstrap import CONFIDENCE, Floats, Interval
from distsqz.report.comparisons import BLOCKS, GOODPUT_TOLERANCE, OPTION_RULES
from distsqz.report.tables import CellTable

if TYPE_CHECKING:
    from distsqz.report.measured_run import MeasuredRun

FEWEST_SESSIONS = 2
"""Sessions below which there is nothing to pool."""

Kind = Literal["models", "strategies", "speedups"]

Rates = tuple[int | None, ...]
"""The rate of each host's emulated link, in the order of ranks and servers; None where it is not known."""


def pooled_ratio(ratios: Floats) -> tuple[float, Interval | None]:
    """The geometric mean of the sessions' ratios and its 95% interval, which holds the spread between them.

    The interval is None for a single session.
    """
    logs = np.log(ratios)
    mean = float(logs.mean())
    if len(logs) < FEWEST_SESSIONS:
        return math.exp(mean), None
    t = float(special.stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
    half = t * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(mean), (math.exp(mean - half), math.exp(mean + half))


class _Comparison(NamedTuple):
    """What is compared, over which links, and whether the ratio was computed for hosts of their own."""

    kind: Kind
    base: str
    other: str
    strategy: str
    world_size: int
    rates: Rates
    computed: bool
    settings: tuple[Any, ...]

    def at_any_rate(self) -> _Comparison:
        """The same comparison whatever the rates of its links."""
        return self._replace(rates=())


@dataclass(frozen=True)
class _Measured:
    """One session's measurement of one comparison."""

    run: MeasuredRun
    cells: tuple[str, str]
    """The names of the base's cell and of the other's."""
    bytes_ratio: float | None
    ratio: float
    interval: list[float] | None
    goodput_bytes_per_s: float | None
    """What the slowest link carried before training."""


def pool(runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    """A row for each comparison of cells that several of the runs made, and for all rates that links had.

    Sessions are pooled only where their links are alike: emulated ones have the same rates, host by host, and
    others carried about as much before training (`GOODPUT_TOLERANCE`).

    A row has `kind` (`models`, `strategies` or `speedups`), what is compared (`other` over `base`),
    `rate_bits_per_s` of emulated links or, where they differ, `host_rates_bits_per_s` in the order of ranks
    and servers, `goodput_bytes_per_s` of links whose rates are not known, `bytes_ratio`, the pooled `time_ratio`
    and its interval (where `sessions` is 1, that within the session), the ratio of each session, whether it
    was `computed` for hosts that share no cores, the number of `sessions`, the `processors` they ran on, and
    by session the run's id and the two `cells`.
    """
    rates = {(comparison.at_any_rate(), comparison.rates) for comparison, _ in _groups(tuple(runs))}
    number_of_rates = Counter(comparison for comparison, _ in rates)
    return [
        _row(comparison, sessions)
        for comparison, sessions in _groups(tuple(runs))
        if len(sessions) >= FEWEST_SESSIONS or number_of_rates[comparison.at_any_rate()] > 1
    ]


@lru_cache(maxsize=1)  # the sections of a report, its page and its figure ask one after the other
def _groups(runs: tuple[MeasuredRun, ...]) -> list[tuple[_Comparison, list[_Measured]]]:
    """Comparisons with the sessions that made them over alike links."""
    groups: defaultdict[_Comparison, list[_Measured]] = defaultdict(list)
    for run in runs:
        for comparison, measured in _measured(run):
            groups[comparison].append(measured)
    return [
        (comparison, alike)
        for comparison, sessions in groups.items()
        for alike in (_of_alike_links(sessions) if _unknown(comparison.rates) else [sessions])
    ]


def pooled_cells(rows: Sequence[dict[str, Any]], kind: Kind) -> set[tuple[str, str, str]]:
    """The comparisons of one kind that rows of `pool` hold: of each the run's id, and the cells compared."""
    return {
        (run_id, base, other)
        for row in rows
        if row["kind"] == kind
        for run_id, (base, other) in zip(row["run_ids"], row["cells"], strict=True)
    }


def _measured(run: MeasuredRun) -> Iterator[tuple[_Comparison, _Measured]]:
    """The comparisons of a run; equal ones of several runs are measurements of the same."""
    cells = {cell.row["cell"]: cell for cell in (*run.cells, *run.baselines)}

    def measured(
        kind: Kind, names: tuple[str, str], ends: tuple[str, str], row: dict[str, Any], ratio: str
    ) -> tuple[_Comparison, _Measured]:
        base, other = (cells[end] for end in ends)
        comparison = _Comparison(
            kind=kind,
            base=names[0],
            other=names[1],
            strategy=other.row["strategy"],
            world_size=other.row["world_size"],
            rates=_rates(other.row),
            computed=bool(row.get("computed")),
            settings=(_settings(base), _settings(other)),
        )
        return comparison, _Measured(
            run,
            ends,
            row.get("bytes_ratio"),
            row[ratio],
            row[f"{ratio}_ci95"],
            other.row["goodput_bytes_per_s"],
        )

    for row in run.model_comparisons:
        if row["step_ratio"] is not None:
            ends = row["small_cell"], row["large_cell"]
            yield measured("models", (row["small"], row["large"]), ends, row, "step_ratio")
    for row in run.strategy_comparisons:
        if row["step_ratio"] is not None:
            names = f"{row['model']} {row['over']}", f"{row['model']} {row['strategy']}"
            yield measured("strategies", names, (row["over_cell"], row["cell"]), row, "step_ratio")
    for row in run.speedups:
        if row["speedup_ratio"] is not None:
            names = "one worker", row["model"]
            yield measured("speedups", names, (row["baseline_cell"], row["cell"]), row, "speedup_ratio")


def _of_alike_links(sessions: Sequence[_Measured]) -> Iterator[list[_Measured]]:
    """Sessions whose links carried about as much before training, together; those of no links, too."""
    alike: list[_Measured] = []
    for session in sorted(sessions, key=lambda each: each.goodput_bytes_per_s or 0.0):
        least, most = (each.goodput_bytes_per_s or 0.0 for each in ((alike or [session])[0], session))
        if not math.isclose(least, most, rel_tol=GOODPUT_TOLERANCE):
            yield sorted(alike, key=sessions.index)
            alike = []
        alike.append(session)
    yield sorted(alike, key=sessions.index)


def _row(comparison: _Comparison, sessions: Sequence[_Measured]) -> dict[str, Any]:
    ratio, spread = pooled_ratio(np.array([each.ratio for each in sessions]))
    interval = spread if len(sessions) > 1 else sessions[0].interval
    known = [each.bytes_ratio for each in sessions if each.bytes_ratio is not None]
    return {
        "kind": comparison.kind,
        "base": comparison.base,
        "other": comparison.other,
        "strategy": comparison.strategy,
        "world_size": comparison.world_size,
        **_links(comparison.rates, [each.goodput_bytes_per_s for each in sessions]),
        "bytes_ratio": math.exp(float(np.log(known).mean())) if known else None,
        "time_ratio": ratio,
        "time_ratio_ci95": list(interval) if interval else None,
        "session_ratio": [each.ratio for each in sessions],
        "session_ratio_ci95": [each.interval for each in sessions],
        "computed": comparison.computed,
        "sessions": len(sessions),
        "processors": sorted({str(_processor(each.run)) for each in sessions}),
        "run_ids": [each.run.run_id for each in sessions],
        "cells": [list(each.cells) for each in sessions],
    }


def _links(rates: Rates, goodputs: Sequence[float | None]) -> dict[str, Any]:
    """What a row says of the links: one rate, or one for each host, or what they carried."""
    known = [goodput for goodput in goodputs if goodput is not None]
    several = len({*rates}) > 1
    return {
        "rate_bits_per_s": rates[0] if rates and not several else None,
        "host_rates_bits_per_s": list(rates) if several else None,
        "goodput_bytes_per_s": sum(known) / len(known) if known and _unknown(rates) else None,
    }


def _settings(cell: CellTable) -> tuple[Any, ...]:
    """What cells of different sessions must have in common to be the same: their options and their places."""
    names = [name for name, of in OPTION_RULES.items() if not of.not_alike and name not in BLOCKS]
    values = [(name, str(cell.entry.get(name))) for name in names]
    hosts = [*(cell.entry.get("hosts") or []), *(cell.entry.get("server_hosts") or [])]
    # Of what workers alone know: machines of other kinds are not further sessions of the same.
    machine = [str(cell.entry.get(name)) for name in ("device", "threads_per_worker", "machine_cores")]
    return (*values, *machine, *(hosts.index(host) for host in hosts))  # whatever the hosts' names


def _rates(row: dict[str, Any]) -> Rates:
    rates = row.get("emulated_rate_bits_per_s") or {}
    hosts = [*(row.get("hosts") or rates), *(row.get("server_hosts") or [])]
    return tuple(rates.get(host) for host in dict.fromkeys(hosts))


def _unknown(rates: Rates) -> bool:
    """Whether the rate of some link is not known."""
    return not rates or None in rates


def _processor(run: MeasuredRun) -> str | None:
    return (run.run.meta.get("environment") or {}).get("cpu")
