"""Sentences about comparisons of two cells: what is saved, how certain that is, and what makes it
doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from distsqz.lab.rate import rate_words
from distsqz.report.bootstrap import FEWEST_PAIRS
from distsqz.report.formats import ratio


def workers(comparison: dict[str, Any]) -> str:
    """A number with its noun, for example `4 workers`."""
    number = comparison["world_size"]
    return f"{number} worker{'s' if number > 1 else ''}"


def time_claim(comparison: dict[str, Any], base: str, other: str, how: str) -> str:
    """Sentence that compares the step times of two cells.

    Args:
        comparison: has `step_ratio`, the step time of one cell over that of another, and its interval.
        base: names the cell in the denominator.
        other: names the cell in the numerator.
        how: how the ratio was measured, such as `paired blocks`.
    """
    step_ratio, interval = comparison["step_ratio"], comparison["step_ratio_ci95"]
    if step_ratio is None:
        return "no step times to compare yet"
    sureness = f"fewer than {FEWEST_PAIRS} blocks to compare, too few for an interval"
    if interval is not None:
        within = (
            "each run's own scatter"
            if how.startswith("separate runs")
            else "95% interval within this session"
        )
        sureness = f"{_brackets(interval)}, {within}, {how}"
    return ratio_claim(step_ratio, interval, base, other, sureness)


def ratio_claim(
    step_ratio: float, interval: Sequence[float] | None, base: str, other: str, sureness: str
) -> str:
    """Sentence about a ratio of step times: less time, more, or not to be told apart.

    Args:
        step_ratio: the step time of `other` over that of `base`.
        interval: its 95% interval, if it has one.
        base: names the cell in the denominator.
        other: names the cell in the numerator.
        sureness: what stands in the parentheses, the interval included.
    """
    if interval is not None and interval[0] <= 1 <= interval[1]:
        return (
            "their step times cannot be told apart: "
            f"{other}'s step takes {ratio(step_ratio)} the time of {base}'s ({sureness})"
        )
    if step_ratio < 1:
        return f"{other}'s step takes {ratio(step_ratio)} the time of {base}'s ({sureness})"
    return f"{base}'s step takes {ratio(step_ratio)} less time ({sureness})"


def _brackets(interval: Sequence[float]) -> str:
    low, high = interval
    return f"[{ratio(low)}, {ratio(high)}]"


def pooled_sureness(row: dict[str, Any]) -> str:
    """How sure a row of `distsqz.report.pooling.pool` is, for the parentheses behind its ratio."""
    interval = f"{_brackets(row['time_ratio_ci95'])}, " if row["time_ratio_ci95"] else ""
    if row["sessions"] == 1:
        within = "95% interval within " if interval else ""
        return f"{interval}{within}one session, so nothing is known of the spread between sessions"
    return f"{interval}95% interval with the spread between sessions"


def links_in_words(row: dict[str, Any]) -> str | None:
    """The links of a row of `pooling.pool` in words, such as `1 Gbit/s`; None if nothing is known of them."""
    if row["rate_bits_per_s"] is not None:
        return rate_words(row["rate_bits_per_s"])
    if row["host_rates_bits_per_s"]:
        runs = [(rate, len([*hosts])) for rate, hosts in groupby(row["host_rates_bits_per_s"])]
        return ", ".join(
            (f"{number} x " if number > 1 else "") + ("unknown" if rate is None else rate_words(rate))
            for rate, number in runs
        )
    if row["goodput_bytes_per_s"] is not None:
        return f"{row['goodput_bytes_per_s'] * 8e-6:,.0f} Mbit/s measured"
    return None


def is_slower(speedup: float, interval: Sequence[float] | None) -> bool:
    """Whether a speed-up, or the upper end of its interval if it has one, is below 1."""
    return (interval[1] if interval else speedup) < 1


def doubts(comparison: dict[str, Any]) -> list[str]:
    """Sentence that says why times, or times and bytes, are not compared, and what may differ without being
    recorded.
    """
    differences, not_recorded = comparison["differences"], comparison["not_recorded"]
    reasons = []
    if differences:
        left_out = "step times" if comparison["bytes_ratio"] is not None else "bytes and step times"
        reasons.append(f"{left_out} are not compared, as these differ: {', '.join(differences)}")
    if not_recorded:
        reasons.append(f"not recorded, and possibly different: {', '.join(not_recorded)}")
    return reasons


def how_times_are_compared(comparisons: Sequence[dict[str, Any]]) -> str:
    """Description of a table's step ratios, for the parentheses in its title."""
    ways = {True: "paired, geometric means over blocks", False: "unpaired, ratios of medians"}
    compared = {comparison["paired"] for comparison in comparisons if comparison["step_ratio"] is not None}
    used = ", or ".join(way for paired, way in ways.items() if paired in compared)
    return f"step times: {used}" if used else "no step times compared"
