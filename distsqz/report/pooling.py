"""Pools sessions: comparisons of the same cells that were measured several times, on one machine or on more.

A session's interval says how far its own blocks scatter. What another day, host or processor changes shows
only between sessions, so several of them are taken as a sample: the pooled ratio is the geometric mean of the
sessions' ratios, its interval Student's t over their logarithms. Sessions count alike, however long they are.

Source: Student, "The Probable Error of a Mean" (1908).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from scipy import special

from distsqz.report.bootstrap import CONFIDENCE, Floats, Interval
from distsqz.report.comparisons import BLOCKS, GOODPUT_TOLERANCE, OPTION_RULES
from distsqz.report.tables import CellTable

if TYPE_CHECKING:
    from distsqz.report.measured_run import MeasuredRun

FEWEST_SESSIONS = 2
"""Sessions below which there is nothing to pool."""

Kind = Literal["models", "strategies", "options", "speedups"]

Settings = tuple[tuple[str, str | None], ...]
"""Names and values of everything that cells must share to measure the same."""

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
    settings: tuple[Settings, ...]
    """Those of the base's cell, then those of the other's."""

    def at_any_rate(self) -> _Comparison:
        """The same comparison whatever the rates of its links."""
        return self._replace(rates=())

    def also(self, name: str, value: str) -> _Comparison:
        """The same comparison with one more setting."""
        return self._replace(settings=(*self.settings, ((name, value),)))

    def subject(self) -> tuple[Any, ...]:
        """The names by which a sentence identifies the comparison. Several comparisons may share them."""
        return self.kind, self.base, self.other, self.strategy, self.world_size


class _Cell(NamedTuple):
    """What was measured in a cell, and over which links."""

    model: str
    strategy: str
    world_size: int
    rates: Rates
    settings: tuple[Settings, ...]

    def also(self, name: str, value: str) -> _Cell:
        """The same cell with one more setting."""
        return self._replace(settings=(*self.settings, ((name, value),)))

    def subject(self) -> tuple[Any, ...]:
        """The names by which a sentence identifies the cell. Several cells may share them."""
        return self.model, self.strategy, self.world_size


_Key = TypeVar("_Key", _Comparison, _Cell)
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class _Measured:
    """One session's measurement of one comparison."""

    run: MeasuredRun
    cells: tuple[str, str]
    """The names of the base's cell and of the other's."""
    bytes_ratio: float | None
    bytes_source: str | None
    ratio: float
    interval: list[float] | None
    goodput_bytes_per_s: float | None
    """What the slowest link carried before training."""


def pool(runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    """A row for each comparison of cells that several of the runs made, and for all rates that links had.

    Sessions are pooled only where their links are alike: emulated ones have the same rates, host by host, and
    others carried about as much before training (`GOODPUT_TOLERANCE`).

    A row has its `kind`, what is compared (`other` over `base`), `settings` in which it differs from other
    comparisons of the same, `rate_bits_per_s` of emulated links or, where they differ,
    `host_rates_bits_per_s` in the order of ranks and servers, `goodput_bytes_per_s` of links whose rates are
    not known, `bytes_ratio` and its source, the pooled `time_ratio` and its interval (where `sessions` is 1,
    that within the session), the ratio of each session, whether it was `computed` for hosts that share no
    cores, the number of `sessions`, the `processors` they ran on, and by session the run's id and the two
    `cells`.
    """
    groups = _groups(tuple(runs))
    rates = {(comparison.at_any_rate(), comparison.rates) for comparison, _ in groups}
    number_of_rates = Counter(comparison for comparison, _ in rates)
    return [
        row
        for (comparison, sessions), row in zip(groups, compare_all(runs), strict=True)
        if len(sessions) >= FEWEST_SESSIONS or number_of_rates[comparison.at_any_rate()] > 1
    ]


def compare_all(runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    """A row for each comparison, with the keys of `pool`, whether one run made it or several."""
    groups = _groups(tuple(runs))
    settings = _told_apart([comparison for comparison, _ in groups])
    return [_row(*group, of_group) for group, of_group in zip(groups, settings, strict=True)]


@dataclass(frozen=True)
class AlikeCells:
    """Cells of several sessions that measured the same."""

    cells: list[CellTable]
    links: dict[str, Any]
    """The rate or the goodput of their links, under the same keys as in a row of `pool`."""
    settings: str | None
    """The settings that tell them apart from other cells of their model and strategy; None if none are
    needed."""


def alike_cells(runs: Sequence[MeasuredRun]) -> list[AlikeCells]:
    """The cells of all runs, grouped by the settings and links that `pool` compares."""
    cells = [(_cell_key(cell), cell) for run in runs for cell in run.cells]
    groups = _grouped(_unique(cells, lambda cell: (cell.run_id, cell.row["cell"])), _goodput_of_cell)
    settings = _told_apart([key for key, _ in groups])
    return [
        AlikeCells(of_key, links_of_cells(of_key), of_group)
        for (_, of_key), of_group in zip(groups, settings, strict=True)
    ]


@lru_cache(maxsize=1)  # the sections of a report, its page and its figure ask one after the other
def _groups(runs: tuple[MeasuredRun, ...]) -> list[tuple[_Comparison, list[_Measured]]]:
    """Each comparison with the sessions that measured it over the same links."""
    measured = [each for run in runs for each in _measured(run)]
    unique = _unique(measured, lambda each: (each.run.run_id, " and ".join(each.cells)))
    return _grouped(unique, lambda each: each.goodput_bytes_per_s)


def _unique(
    items: Sequence[tuple[_Key, _Item]], name_of: Callable[[_Item], tuple[str, str]]
) -> list[tuple[_Key, _Item]]:
    """Items under keys that are unique in their run. Where several items share a key, cell names are added.

    Args:
        items: each with its key.
        name_of: the run of an item, and its name in it.
    """
    number_of = Counter((name_of(item)[0], key) for key, item in items)
    return [
        (key if number_of[name_of(item)[0], key] == 1 else key.also("cell", name_of(item)[1]), item)
        for key, item in items
    ]


def _grouped(
    items: Sequence[tuple[_Key, _Item]], goodput: Callable[[_Item], float | None]
) -> list[tuple[_Key, list[_Item]]]:
    """Items grouped by key and, where the rate of a link is not known, by the goodput of the links."""
    groups: defaultdict[_Key, list[_Item]] = defaultdict(list)
    for key, item in items:
        groups[key].append(item)
    return [
        (key, alike)
        for key, of_key in groups.items()
        for alike in (_of_alike_links(of_key, goodput) if _unknown(key.rates) else [of_key])
    ]


def pooled_cells(rows: Sequence[dict[str, Any]], kind: Kind) -> set[tuple[str, str, str]]:
    """The comparisons of one kind in rows of `pool`, each as the run's id and the two cells."""
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
            row.get("bytes_source"),
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
    for row in run.option_comparisons:
        if row["step_ratio"] is not None:
            ends = row["small_cell"], row["large_cell"]
            option = f"{row['model']} {row['option']}"
            names = f"{option}={row['small']}", f"{option}={row['large']}"
            yield measured("options", names, ends, row, "step_ratio")
    for row in run.speedups:
        if row["speedup_ratio"] is not None:
            names = "one worker", row["model"]
            yield measured("speedups", names, (row["baseline_cell"], row["cell"]), row, "speedup_ratio")


def _of_alike_links(
    items: Sequence[_Item], goodput: Callable[[_Item], float | None]
) -> Iterator[list[_Item]]:
    """Groups of items whose goodput is the same to `GOODPUT_TOLERANCE`. Items without links form a group."""
    carried = [goodput(item) or 0.0 for item in items]
    alike: list[int] = []
    for place in sorted(range(len(items)), key=carried.__getitem__):
        if alike and not math.isclose(carried[alike[0]], carried[place], rel_tol=GOODPUT_TOLERANCE):
            yield [items[each] for each in sorted(alike)]
            alike = []
        alike.append(place)
    yield [items[each] for each in sorted(alike)]


def _told_apart(keys: Sequence[_Key]) -> list[str | None]:
    """For each key the settings in which it differs from others with the same subject; None if in none."""
    by_key = [_merged(key.settings) for key in keys]
    alike: defaultdict[tuple[Any, ...], list[dict[str, str]]] = defaultdict(list)
    for key, settings in zip(keys, by_key, strict=True):
        alike[key.subject()].append(settings)
    words = [
        [
            f"{name}={value}"
            for name, value in settings.items()
            if len({other.get(name) for other in alike[key.subject()]}) > 1
        ]
        for key, settings in zip(keys, by_key, strict=True)
    ]
    return [", ".join(of_key) or None for of_key in words]


def _merged(settings: Sequence[Settings]) -> dict[str, str]:
    """The settings of all cells of a comparison by name. Values that differ are joined by `and`."""
    values: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in (setting for of_cell in settings for setting in of_cell):
        of_name = values[name]
        if value is not None and value not in of_name:
            of_name.append(value)
    return {name: " and ".join(of_name) or "none" for name, of_name in values.items()}


def _row(comparison: _Comparison, sessions: Sequence[_Measured], settings: str | None) -> dict[str, Any]:
    ratio, spread = pooled_ratio(np.array([each.ratio for each in sessions]))
    interval = spread if len(sessions) > 1 else sessions[0].interval
    known = [each.bytes_ratio for each in sessions if each.bytes_ratio is not None]
    return {
        "kind": comparison.kind,
        "base": comparison.base,
        "other": comparison.other,
        "strategy": comparison.strategy,
        "world_size": comparison.world_size,
        "settings": settings,
        **_links(comparison.rates, [each.goodput_bytes_per_s for each in sessions]),
        "bytes_ratio": math.exp(float(np.log(known).mean())) if known else None,
        "bytes_source": " and ".join(sorted({each.bytes_source for each in sessions if each.bytes_source}))
        or None,
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
    """The links of a row: one rate for all, a rate for each host, or the measured goodput."""
    known = [goodput for goodput in goodputs if goodput is not None]
    several = len({*rates}) > 1
    return {
        "rate_bits_per_s": rates[0] if rates and not several else None,
        "host_rates_bits_per_s": list(rates) if several else None,
        "goodput_bytes_per_s": sum(known) / len(known) if known and _unknown(rates) else None,
    }


def links_of_cells(cells: Sequence[CellTable]) -> dict[str, Any]:
    """The rate or the goodput of the links of alike cells, under the same keys as in a row of `pool`."""
    return _links(_rates(cells[0].row), list(map(_goodput_of_cell, cells)))


def _settings(cell: CellTable) -> Settings:
    """What cells of different sessions must have in common to be the same: their options and their places."""
    names = [name for name, of in OPTION_RULES.items() if not of.not_alike and name not in BLOCKS]
    # Of what workers alone know: machines of other kinds are not further sessions of the same.
    names += ["device", "threads_per_worker", "machine_cores", "emulated"]
    values = {name: cell.entry.get(name) for name in names}
    hosts = [*(cell.entry.get("hosts") or []), *(cell.entry.get("server_hosts") or [])]
    numbers = list(dict.fromkeys(hosts))
    values["hosts"] = [numbers.index(host) for host in hosts]  # whatever the hosts' names
    return tuple((name, None if value is None else str(value)) for name, value in values.items())


def _cell_key(cell: CellTable) -> _Cell:
    row = cell.row
    return _Cell(row["model"], row["strategy"], row["world_size"], _rates(row), (_settings(cell),))


def _goodput_of_cell(cell: CellTable) -> float | None:
    goodput: float | None = cell.row["goodput_bytes_per_s"]
    return goodput


def _rates(row: dict[str, Any]) -> Rates:
    rates = row.get("emulated_rate_bits_per_s") or {}
    hosts = [*(row.get("hosts") or rates), *(row.get("server_hosts") or [])]
    return tuple(rates.get(host) for host in dict.fromkeys(hosts))


def _unknown(rates: Rates) -> bool:
    """Whether the rate of some link is not known."""
    return not rates or None in rates


def _processor(run: MeasuredRun) -> str | None:
    return (run.run.meta.get("environment") or {}).get("cpu")
