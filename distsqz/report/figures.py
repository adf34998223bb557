"""The report's figure: for each cell, the bytes that a rank sends a step and where the step's time goes.

It shows the numbers of the report's table: the same bytes, step times and intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from distsqz.errors import InvalidValue
from distsqz.lab.rate import rate_words
from distsqz.report.claims import links_in_words
from distsqz.report.formats import UNKNOWN, ratio
from distsqz.report.parts import PART_NAMES
from distsqz.report.tables import PARTS, CellTable, hosts_by_rate
from distsqz.report.timelines import Timeline, time_notes

PART_COLOURS = {
    "data_s": "#b9c4cf",
    "forward_s": "#7fa8d1",
    "backward_s": "#2f6ca8",
    "wait_s": "#f4cf73",
    "exposed_comm_s": "#e8743b",
    "optimizer_s": "#5b4a8a",
    "other_s": "#dedede",
}
"""Computation in blues, so that communication and waiting stand out."""

TCP_COLOUR, PREDICTED_COLOUR = "#2a8c82", "#a9d5d0"
"""Bytes have a colour that no part of a step's time has."""
TRANSFER_COLOUR = "#c2410c"
MARKERS = "os^Dv"
TIME_COLOUR = PART_COLOURS["exposed_comm_s"]
INK, GRID = "#24292f", "#d9dee3"

STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.left": False,
    "grid.color": GRID,
    # A fixed salt, and no date below, make the same run give the same file.
    "svg.hashsalt": "distsqz",
    "pdf.fonttype": 42,  # TrueType; many publishers refuse Type 3
}


METADATA = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""By suffix, what makes the same run give the same file."""


def draw(cells: Sequence[CellTable], path: Path) -> None:
    """Writes the figure of cells to `path`, as SVG, PNG or PDF by its suffix; see `figure`.

    Raises:
        InvalidValue: `path` cannot be written.
    """
    _write(path, "figure", lambda: figure(cells))


def draw_ratios(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the figure of pooled sessions to `path`, as SVG, PNG or PDF by its suffix.

    Args:
        rows: what `distsqz.report.pooling.pool` gives.
        path: the file.

    Raises:
        InvalidValue: `path` cannot be written.
    """
    _write(path, "figure", lambda: ratios_figure(rows))


def draw_timelines(timelines: Sequence[Timeline], path: Path) -> None:
    """Writes timelines to `path` as SVG: a lane for each rank, all cells on one axis of time.

    Raises:
        InvalidValue: `path` cannot be written.
    """
    _write(path, "svg", lambda: timelines_figure(timelines))


def _write(path: Path, field: str, make: Callable[[], Figure]) -> None:
    """Writes a figure, opaque, so that it reads on any page."""
    with matplotlib.rc_context(STYLE):
        try:
            make().savefig(path, dpi=160, metadata=METADATA.get(path.suffix))
        except OSError as error:
            raise InvalidValue(
                field, path, f"cannot be written ({error.strerror}); name a file in an existing directory"
            ) from error


def ratios_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """The figure of pooled sessions: ratios of models by the rate of the links, times with their intervals.

    Intervals hold the spread between sessions; of a ratio that one session measured, that within it.
    A line marks the ratio of bytes, which no rate changes.
    """
    rows = [row for row in rows if row["kind"] == "models"]
    links = list(dict.fromkeys(links_in_words(row) or "any" for row in sorted(rows, key=_slowest)))
    pairs = list(dict.fromkeys((row["base"], row["other"]) for row in rows))
    drawn = Figure(figsize=(1.5 + 3.6 * len(pairs), 4), facecolor="white", layout="constrained")
    for axes, (base, other) in zip(drawn.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        of_pair = [row for row in rows if (row["base"], row["other"]) == (base, other)]
        strategies = list(dict.fromkeys(map(_series, of_pair)))
        for index, strategy in enumerate(strategies):
            beside = 0.12 * (index - (len(strategies) - 1) / 2)
            for row in (row for row in of_pair if _series(row) == strategy):
                at = links.index(links_in_words(row) or "any") + beside
                _draw_ratio(axes, row, at, MARKERS[index % len(MARKERS)], left=index == 0)
        handles = [
            axes.plot([], [], MARKERS[index % len(MARKERS)], color=TIME_COLOUR, label=f"step time, {name}")[0]
            for index, name in enumerate(strategies)
        ]
        if any(row["sessions"] == 1 for row in of_pair):
            label = "hollow: one session, interval within it"
            marks = axes.plot([], [], "o", color=TIME_COLOUR, markerfacecolor=_face(1), label=label)
            handles.append(marks[0])
        if known := [row["bytes_ratio"] for row in of_pair if row["bytes_ratio"]]:
            label = f"bytes: {ratio(known[0])} at any rate"
            handles.append(axes.axhline(known[0], color=TCP_COLOUR, label=label))
        axes.set_xticks(range(len(links)), links)
        axes.set_xlim(-0.5, len(links) - 0.5)
        axes.set_ylim(0, 1.15 * max(axes.get_ylim()))
        axes.set_title(f"{other} over {base}, by the rate of the links", loc="left", fontsize=11)
        axes.set_ylabel(f"{other}'s over {base}'s")
        axes.grid(axis="y")
        axes.legend(handles=handles, fontsize=9, facecolor="white", framealpha=1, edgecolor="white")
    return drawn


def _draw_ratio(axes: Any, row: dict[str, Any], at: float, marker: str, left: bool) -> None:
    """A ratio with its interval and its number; hollow where one session measured it."""
    value = row["time_ratio"]
    if row["time_ratio_ci95"]:
        low, high = row["time_ratio_ci95"]
        axes.errorbar(at, value, yerr=[[value - low], [high - value]], color=INK, capsize=3)
    axes.plot(at, value, marker, color=TIME_COLOUR, markerfacecolor=_face(row["sessions"]))
    place = {"xytext": (-7, 0), "ha": "right"} if left else {"xytext": (7, 0), "ha": "left"}
    axes.annotate(ratio(value), (at, value), textcoords="offset points", va="center", **place)


def _slowest(row: dict[str, Any]) -> float:
    """What the slowest link of a row carries, in bits a second; 0 where it is not known."""
    rates = [row["rate_bits_per_s"], *(row["host_rates_bits_per_s"] or [])]
    return min(filter(None, rates), default=8 * (row["goodput_bytes_per_s"] or 0.0))


def _series(row: dict[str, Any]) -> str:
    return f"{row['strategy']} ({row['settings']})" if row["settings"] else str(row["strategy"])


def _face(sessions: int) -> str:
    return TIME_COLOUR if sessions > 1 else "white"


def timelines_figure(timelines: Sequence[Timeline]) -> Figure:
    """The figure of timelines: phases of each rank in colours, transfers in flight as a thin bar below."""
    lanes = [len(timeline.lanes) for timeline in timelines]
    drawn = Figure(
        figsize=(11, 1.5 + 0.34 * sum(lanes) + 0.4 * len(lanes)), facecolor="white", layout="constrained"
    )
    rows = drawn.subplots(len(timelines), 1, sharex=True, squeeze=False, height_ratios=lanes)[:, 0]
    for axes, timeline in zip(rows, timelines, strict=True):
        for row, lane in enumerate(timeline.lanes):
            for name, start, end in lane.phases:
                axes.broken_barh([(start, end - start)], (row - 0.3, 0.45), color=PART_COLOURS[name])
            spans = [(start, end - start) for _, start, end in lane.transfers]
            axes.broken_barh(spans, (row + 0.18, 0.14), color=TRANSFER_COLOUR)
        axes.set_yticks(
            range(len(timeline.lanes)), [f"rank {lane.rank}, {lane.host}" for lane in timeline.lanes]
        )
        axes.set_ylim(len(timeline.lanes) - 0.5, -0.5)
        axes.set_title(timeline.title, loc="left", fontsize=11)
        axes.grid(axis="x")
    rows[-1].set_xlabel("\n".join(["seconds", *time_notes(timelines)]))
    handles = [Patch(color=PART_COLOURS[part], label=PART_NAMES[part]) for part in PARTS]
    handles.append(Patch(color=TRANSFER_COLOUR, label="transfer in flight"))
    drawn.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return drawn


def figure(cells: Sequence[CellTable]) -> Figure:
    """The figure: a row a cell, bytes in the left axes, step times in the right ones."""
    drawn = Figure(figsize=(11, 1.9 + 0.62 * len(cells)), facecolor="white", layout="constrained")
    sizes, times = drawn.subplots(1, 2, sharey=True, width_ratios=[2, 3])
    sizes.set_yticks(range(len(cells)), [_label(cell) for cell in cells])
    sizes.invert_yaxis()
    _draw_bytes(sizes, cells)
    _draw_times(times, cells)
    return drawn


def _label(cell: CellTable) -> str:
    workers = cell.row["world_size"]
    label = f"{cell.row['model']}\n{cell.row['strategy']}, {workers} worker{'s' if workers > 1 else ''}"
    plain = f"{cell.row['model'].replace(':', '.')}-{cell.row['strategy']}-w{workers}"
    if (name := cell.row["cell"]) != plain:  # other cells may have the same model and strategy
        label += f"\n{name.removeprefix(plain).lstrip('-')}"
    if cell.row.get("emulated"):
        rates = "/".join(map(rate_words, hosts_by_rate(cell.row)))
        label += f"\nemulated{', ' if rates else ''}{rates}"
    return label


def _draw_bytes(axes: Any, cells: Sequence[CellTable]) -> None:
    tcp = [cell.row["tcp_tx_bytes"] for cell in cells]
    shown = [
        cell.row["predicted_tx_bytes"] if seen is None else seen
        for cell, seen in zip(cells, tcp, strict=True)
    ]
    colours = [PREDICTED_COLOUR if seen is None else TCP_COLOUR for seen in tcp]
    positive = [value for value in shown if value]
    axes.set_xscale("log")
    if positive:
        # Bars on a log axis have no natural origin: start a decade below the least, leave room for labels.
        axes.set_xlim(min(positive) / 10, max(positive) * 30)
    axes.barh(range(len(cells)), [value or float("nan") for value in shown], height=0.55, color=colours)
    for row, (value, seen) in enumerate(zip(shown, tcp, strict=True)):
        text = UNKNOWN if value is None else f"{value:,.0f}"
        text += " (predicted)" if value and seen is None else ""
        _note(axes, text, value or axes.get_xlim()[0], row)
    scale = "log scale"
    by_strategy: dict[str, list[float]] = {}
    for cell, value in zip(cells, shown, strict=True):
        if value:
            by_strategy.setdefault(cell.row["strategy"], []).append(value)
    # Ratios of one strategy: a rank's bytes do not compare across strategies.
    ratios = {
        name: ratio(max(values) / min(values)) for name, values in by_strategy.items() if len(values) > 1
    }
    if len({*ratios.values()}) == 1:
        scale += f", the most {next(iter(ratios.values()))} the least"
    elif ratios:
        scale += ", the most " + ", ".join(f"{text} the least under {name}" for name, text in ratios.items())
    axes.set_title(f"TCP bytes a rank sends a step\n({scale})", loc="left", fontsize=11)
    axes.grid(axis="x")


def _draw_times(axes: Any, cells: Sequence[CellTable]) -> None:
    """The table's step time of each cell with its interval, cut in proportion to what each part takes."""
    steps_ms = [(cell.row["step_s"] or 0.0) * 1e3 for cell in cells]
    left = [0.0] * len(cells)
    for part in PARTS:
        widths = [
            step_ms * float(cell.shares.fillna(0.0)[part])
            for step_ms, cell in zip(steps_ms, cells, strict=True)
        ]
        axes.barh(range(len(cells)), widths, left=left, height=0.55, color=PART_COLOURS[part])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    longest = 0.0
    for row, (step_ms, cell) in enumerate(zip(steps_ms, cells, strict=True)):
        end = step_ms
        if cell.row["step_s_ci95"]:
            low, end = (each * 1e3 for each in cell.row["step_s_ci95"])
            interval = [[step_ms - low], [end - step_ms]]
            axes.errorbar(step_ms, row, xerr=interval, color=INK, capsize=3, linewidth=1)
        text = f"{step_ms:,.0f} ms" if step_ms >= 100 else f"{step_ms:.1f} ms"
        _note(axes, text if step_ms else UNKNOWN, end, row)
        longest = max(longest, end)
    axes.set_xlim(0, longest * 1.14 or 1)
    axes.set_title(
        "Step time with its 95% interval, ms, and each part's share of it", loc="left", fontsize=11
    )
    axes.grid(axis="x")
    axes.tick_params(labelleft=False)
    handles = [Patch(color=PART_COLOURS[part], label=PART_NAMES[part]) for part in PARTS]
    axes.figure.legend(
        handles=handles, loc="outside lower right", ncols=len(PARTS), frameon=False, fontsize=9
    )


def _note(axes: Any, text: str, x: float, row: int) -> None:
    """Text just right of where a bar ends."""
    axes.annotate(
        text,
        (x, row),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
