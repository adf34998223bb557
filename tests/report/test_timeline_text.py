"""Timelines as text: each part of the axis shows what takes most of it, and no line is too wide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distsqz.report.figures import timelines_figure
from distsqz.report.timeline_text import timeline_text
from distsqz.report.timelines import MOST_RANKS, Interval, Lane, Timeline, time_notes

LONG_HOST = "ip-10-17-203-118.eu-central-1.compute.internal"


def timeline(phases: list[Interval], host: str = "h1", ranks: int = 1) -> Timeline:
    lanes = [Lane(rank, host, phases, []) for rank in range(ranks)]
    return Timeline(
        cell="squeezenet-ddp-w2",
        steps=(3, 4),
        lanes=lanes,
        ranks=ranks,
        waits_apart=False,
        gathered=False,
        own_clocks=False,
        joined=False,
    )


def drawn(phases: list[Interval], columns: int) -> str:
    """The line of a rank, a character for each of so many parts of the axis."""
    text = timeline_text([timeline(phases)], width=columns + len("rank 0 h1  "))
    return text.splitlines()[1].removeprefix("rank 0 h1  ")


def test_a_phase_in_several_pieces_counts_with_their_sum() -> None:
    data = [("data_s", 2.0, 2.3), ("data_s", 2.65, 2.95)]
    between = [("forward_s", 2.3, 2.65)]
    assert drawn([("backward_s", 0.0, 2.0), *data, *between, ("other_s", 3.0, 30.0)], 30)[:4] == "bbd."


def test_a_part_that_several_short_phases_fill_is_not_blank() -> None:
    thirds = [("data_s", 2.0, 2.3), ("forward_s", 2.3, 2.64), ("optimizer_s", 2.64, 2.9)]
    assert drawn([("backward_s", 0.0, 2.0), *thirds, ("other_s", 4.0, 30.0)], 30)[:5] == "bbf ."


def test_a_part_is_blank_where_phases_take_less_than_half_of_it() -> None:
    assert drawn([("backward_s", 0.0, 2.0), ("data_s", 2.0, 2.4), ("other_s", 3.0, 30.0)], 30)[:4] == "bb ."


@pytest.mark.parametrize("width", [60, 80])
def test_long_names_stay_within_the_line(width: int) -> None:
    shown = replace(timeline([("forward_s", 0.0, 1.0)], LONG_HOST, ranks=11), cell="squeezenet-" * 9 + "ddp")
    lines = timeline_text([shown], width).splitlines()
    assert max(map(len, lines)) <= width
    of_rank = next(line for line in lines if line.startswith("rank 10 "))
    assert "…" in of_rank and "nternal " in of_rank
    assert of_rank.endswith("f" * 20)


def test_short_names_are_whole() -> None:
    assert "rank 0 10.20.30.40  f" in timeline_text([timeline([("forward_s", 0.0, 1.0)], "10.20.30.40")], 60)


def test_ranks_that_are_left_out_are_counted() -> None:
    many = timeline([("forward_s", 0.0, 1.0)], ranks=MOST_RANKS + 4).first_ranks()
    assert len(many.lanes) == MOST_RANKS
    title = f"squeezenet-ddp-w2, steps 3 and 4: 1.00 s, 4 of {MOST_RANKS + 4} ranks left out"
    assert timeline_text([many], 100).splitlines()[0] == title
    assert timelines_figure([many]).axes[0].get_title(loc="left") == title


def test_what_the_axis_leaves_out_is_said_below_a_figure_too() -> None:
    plain = timeline([("forward_s", 0.0, 1.0)])
    assert time_notes([plain]) == []
    (cut,) = time_notes([plain, replace(plain, joined=True)])
    assert "other cells took their turns, is left out" in cut
    (clocks,) = time_notes([replace(plain, own_clocks=True)])
    assert "Hosts' clocks differ" in clocks
    below = timelines_figure([replace(plain, joined=True, own_clocks=True)]).axes[0].get_xlabel()
    assert below == f"seconds\n{clocks}\n{cut}"
