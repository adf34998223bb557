"""The page: what the report's JSON and sections hold, rendered by the templates beside this file."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distsqz.report.claims import is_slower
from distsqz.report.formats import to_json
from distsqz.report.legend import legend
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.page.dots import Dot, dot_figure
from distsqz.report.page.numbers import UNKNOWN, Numbers, heading, shown
from distsqz.report.page.rows import WIDTHS
from distsqz.report.page.shares import ORDER, share_figure
from distsqz.report.page.timeline import timeline_figure
from distsqz.report.parts import PART_NAMES
from distsqz.report.pooling import Kind, pooled_cells
from distsqz.report.report import document, read_sections
from distsqz.report.run_labels import run_labels
from distsqz.report.section import Row, Section
from distsqz.report.sections import models, speedups, strategies
from distsqz.report.sections.links import MOST_LINKS
from distsqz.report.tables import CellTable
from distsqz.report.timelines import MOST_RANKS, Timeline, read_timelines

MOST_FINDINGS = 4
"""Comparisons, or cells where there are none, on the first screen."""

MOST_BOUNDS = 12
"""Cells of which one sentence says what limits them."""

MOST_POOLED = 8
"""Pooled comparisons on the first screen: two strategies at four rates."""

MOST_TIMELINES = 8
OPEN_TIMELINES = 2
"""How many timelines there are, and how many of them are unfolded at first."""

COMPARISONS: dict[Kind, tuple[str, Callable[[Row], tuple[str, str, str]]]] = {
    "models": ("comparisons", models.cells_of),
    "strategies": ("strategy_comparisons", strategies.cells_of),
    "speedups": ("speedups", speedups.cells_of),
}
"""By kind, the key of single comparisons in JSON, and what identifies one."""


@dataclass(frozen=True)
class Table:
    """A section's table: headings, whether a column holds numbers, and rows of marked-up values."""

    section: Section
    headings: list[str]
    numeric: list[bool]
    rows: list[list[Markup]]


def page_of(runs: Sequence[MeasuredRun]) -> str:
    """The report on runs as one HTML file that needs no other and makes no request.

    Runs that shipped files have tables and no figures.
    """
    sections = read_sections(runs)
    numbers = Numbers(json.loads(to_json(document(runs, sections))))
    context: dict[str, Any] = {
        "document": numbers.document,
        "tables": [_table(section, numbers) for section in sections if section.columns],
        "remarks": _remarks(sections, numbers.document),
        "legend": [] if any(run.shipped for run in runs) else legend(runs, sections, _heading),
        "num": numbers.html,
        "is_slower": is_slower,
        "run_labels": {} if any(run.shipped for run in runs) else run_labels(runs),
        "part_names": PART_NAMES,
        "parts": [(name, PART_NAMES[name]) for name in ORDER],
        "most_findings": MOST_FINDINGS,
        "most_bounds": MOST_BOUNDS,
        "most_ranks": MOST_RANKS,
        "trained": not any(run.shipped for run in runs),
    }
    if context["trained"]:
        cells = list(chain.from_iterable(run.cells for run in runs))
        context |= _findings(numbers.document) | _figures(runs, cells, numbers, context["run_labels"])
    return _templates().get_template("page.html.j2").render(context)


def _remarks(sections: Sequence[Section], document: dict[str, Any]) -> dict[str, str]:
    """Notes of sections without a table, by key; the page has warnings above the findings already.

    Before a note that does not hold for all of several runs stand their ids and a colon.
    """
    warnings = set(chain.from_iterable(run["warnings"] for run in document["runs"]))
    return {
        f"notes.{section.key}.{index}": note
        for section in sections
        if not section.columns
        for index, note in enumerate(section.notes)
        if not warnings & {note, note.partition(": ")[2]}
    }


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("distsqz.report.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _findings(document: dict[str, Any]) -> dict[str, Any]:
    """Which comparison or cell each heading and the first screen speak of, by its place in JSON."""
    comparisons, cells = document["comparisons"], document["cells"]
    number_of = Counter(map(models.subject, comparisons))
    pooled = {
        kind: [index for index, row in enumerate(document["sessions"]) if row["kind"] == kind]
        for kind in COMPARISONS
    }
    return {
        "strategies": _unpooled(document, "strategies", "step_ratio"),
        "speedups": _unpooled(document, "speedups", "speedup_ratio"),
        "pooled": pooled["models"][:MOST_POOLED],
        "pooled_strategies": pooled["strategies"][:MOST_POOLED],
        "pooled_speedups": pooled["speedups"][:MOST_POOLED],
        "compared": _unpooled(document, "models")[:MOST_FINDINGS],
        "ambiguous": [index for index, row in enumerate(comparisons) if number_of[models.subject(row)] > 1],
        "most_bytes": _most(document, "bytes_ratio", "bytes_ratio"),
        "most_time": _most(document, "time_ratio", "step_ratio"),
        "most_comm": _largest(cells, "comm_share"),
        "least_comm": _largest(cells, "comm_share", sign=-1),
        "measured": [index for index, row in enumerate(cells) if row["step_s"] is not None],
        "cell_index": {(row["run_id"], row["cell"]): index for index, row in enumerate(cells)},
        "slowest_link": _slowest_link(document),
    }


def _unpooled(document: dict[str, Any], kind: Kind, ratio: str | None = None) -> list[int]:
    """Indices of the comparisons of a kind that are in no pooled row.

    Args:
        document: the report's JSON.
        kind: the kind.
        ratio: a key; comparisons in which it is null are left out.
    """
    key, cells_of = COMPARISONS[kind]
    pooled = pooled_cells(document["sessions"], kind)
    return [
        index
        for index, row in enumerate(document[key])
        if cells_of(row) not in pooled and (ratio is None or row[ratio] is not None)
    ]


def _most(document: dict[str, Any], pooled: str, single: str) -> dict[str, Any] | None:
    """The largest ratio between models, pooled where it is: its key, what it is of, and the row's key."""
    rows = [
        (f"sessions.{index}", pooled, row["base"], row["other"], row)
        for index, row in enumerate(document["sessions"])
        if row["kind"] == "models"
    ] + [
        (f"comparisons.{index}", single, row["small"], row["large"], row)
        for index, row in ((index, document["comparisons"][index]) for index in _unpooled(document, "models"))
    ]
    known = [
        {"key": f"{key}.{name}", "of": key, "small": small, "large": large, "row": row}
        for key, name, small, large, row in rows
        if row[name] is not None
    ]
    return max(known, key=lambda each: float(Numbers(document).value(each["key"])), default=None)


def _largest(rows: list[dict[str, Any]], name: str, sign: int = 1) -> int | None:
    known = [index for index, row in enumerate(rows) if row[name] is not None]
    return max(known, key=lambda index: sign * float(rows[index][name]), default=None)


def _slowest_link(document: dict[str, Any]) -> str | None:
    return min(
        (key for key, _ in _links(document)),
        key=lambda key: float(Numbers(document).value(f"{key}.goodput_bytes_per_s")),
        default=None,
    )


def _links(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"runs.{index}.links.{place}", link)
        for index, run in enumerate(document["runs"])
        for place, link in enumerate(run["links"])
    ]


def _figures(
    runs: Sequence[MeasuredRun], cells: Sequence[CellTable], numbers: Numbers, of_runs: dict[str, str]
) -> dict[str, Any]:
    labels = [_labelled(str(cell.row["cell"]), of_runs.get(cell.run_id)) for cell in cells]
    links = sorted(_links(numbers.document), key=lambda link: float(link[1]["goodput_bytes_per_s"]))
    bytes_dots = [_bytes_dot(label, index, numbers) for index, label in enumerate(labels)]
    step_dots = [_step_dot(label, index, numbers) for index, label in enumerate(labels)]
    link_dots = [_link_dot(key, link, numbers, of_runs) for key, link in links[:MOST_LINKS]]
    timelines = _timelines(runs)
    end_s = max((timeline.end_s for _, timeline in timelines), default=0.0)
    return {
        "labels": labels,
        "bytes_drawings": _both(lambda width: dot_figure(bytes_dots, "B", width, log=True)),
        "bytes_csv": _data_uri(_bytes_rows(cells)),
        "step_drawings": _both(lambda width: dot_figure(step_dots, "s", width, log=True)),
        "step_csv": _data_uri(_step_rows(cells)),
        "share_drawings": _both(lambda width: share_figure(labels, cells, numbers, width)),
        "share_csv": _data_uri(_share_rows(cells)),
        "links": len(links),
        "links_left_out": max(0, len(links) - MOST_LINKS),
        "link_drawings": _both(lambda width: dot_figure(link_dots, "bit/s", width, log=False)),
        "links_csv": _data_uri([link for _, link in links]),
        "links_limited": any(dot.limit is not None for dot in link_dots),
        "timelines": [
            {
                "timeline": timeline,
                "label": _labelled(timeline.cell, of_runs.get(run_id)),
                "file": "-".join(["timeline", timeline.cell, *([run_id] if of_runs else [])]),
                "drawings": _both(partial(timeline_figure, timeline, end_s)),
                "csv": _data_uri(_timeline_rows(timeline)),
            }
            for run_id, timeline in timelines
        ],
        "open_timelines": OPEN_TIMELINES,
        "timelines_left_out": sum(cell.row["step_s"] is not None for cell in cells) - len(timelines),
    }


def _both(draw: Callable[[int], Any]) -> dict[str, Any]:
    """The drawing for screens and that for phones, by the name of its width."""
    return {name: draw(width) for name, width in WIDTHS.items()}


def _labelled(name: str, of_run: str | None) -> str:
    """A name, with the label of its run where there are several."""
    return f"{name} ({of_run})" if of_run else name


def _run_id(key: str, document: dict[str, Any]) -> str:
    """The id of the run in whose entry a key such as `runs.1.links.3` stands."""
    return str(document["runs"][int(key.split(".")[1])]["run_id"])


def _bytes_dot(label: str, index: int, numbers: Numbers) -> Dot:
    """What one worker's training puts on the network: what it sends, and what servers send to it."""
    row, key = numbers.document["cells"][index], f"cells.{index}"
    source = "tcp" if row["tcp_tx_bytes"] is not None else "predicted"
    names = [f"{source}_tx_bytes", *([f"{source}_rx_bytes"] if row.get("servers") else [])]
    values = [row[name] for name in names]
    words = ["sent", "from servers"]
    if None in values:
        return Dot(label=label, parts=(Markup("no measured step"),), value=None)
    parts = [
        Markup("{} {}").format(numbers.svg(f"{key}.{name}"), word)
        for name, word in zip(names, words, strict=False)
    ]
    if source == "predicted":
        parts.append(Markup("by prediction"))
    return Dot(label=label, parts=tuple(parts), value=sum(values), hollow=source == "predicted")


def _step_dot(label: str, index: int, numbers: Numbers) -> Dot:
    row, key = numbers.document["cells"][index], f"cells.{index}"
    if row["step_s"] is None:
        return Dot(label=label, parts=(Markup("no measured step"),), value=None)
    parts = [numbers.svg(f"{key}.step_s")]
    if row["step_s_ci95"]:
        low, high = (numbers.svg(f"{key}.step_s_ci95.{end}") for end in (0, 1))
        parts.append(Markup("{} to {}").format(low, high))
    return Dot(
        label=label,
        parts=tuple(parts),
        value=row["step_s"],
        interval=(row["step_s_ci95"][0], row["step_s_ci95"][1]) if row["step_s_ci95"] else None,
    )


def _link_dot(key: str, link: dict[str, Any], numbers: Numbers, of_runs: dict[str, str]) -> Dot:
    goodput, rtt = (numbers.svg(f"{key}.{name}") for name in ("goodput_bytes_per_s", "rtt_us"))
    return Dot(
        label=_labelled(
            f"{link['host']} to {link['peer_host']}", of_runs.get(_run_id(key, numbers.document))
        ),
        parts=(goodput, Markup("round trip {}").format(rtt)),
        value=8 * link["goodput_bytes_per_s"],
        limit=_emulated_rate(key, link, numbers),
    )


def _emulated_rate(key: str, link: dict[str, Any], numbers: Numbers) -> float | None:
    """The lower rate of the two emulated links that a path takes, in bits a second."""
    run_id = _run_id(key, numbers.document)
    for row in numbers.document["cells"]:
        rates = row.get("emulated_rate_bits_per_s") or {}
        if row["run_id"] == run_id and {link["host"], link["peer_host"]} <= rates.keys():
            return float(min(rates[link["host"]], rates[link["peer_host"]]))
    return None


def _timelines(runs: Sequence[MeasuredRun]) -> list[tuple[str, Timeline]]:
    """The timelines of the first cells, each with its run's id."""
    timelines: list[tuple[str, Timeline]] = []
    for run in runs:
        measured = [row["cell"] for row in run.rows if row["step_s"] is not None]
        drawn = read_timelines(run.run, measured[: MOST_TIMELINES - len(timelines)])
        timelines += [(run.run_id, timeline) for timeline in drawn]
    return timelines


def _table(section: Section, numbers: Numbers) -> Table:
    addresses = section.addresses([run["run_id"] for run in numbers.document["runs"]])
    return Table(
        section=section,
        headings=[_heading(section, name) for name in section.columns],
        numeric=[all(not isinstance(row.get(name), str) for row in section.rows) for name in section.columns],
        rows=[
            _table_row(section.rows[index], addresses[index], section.columns, numbers)
            for index in section.visible()
        ],
    )


def _heading(section: Section, name: str) -> str:
    return heading(section.headings.get(name, name))


def _table_row(row: Row, address: str, columns: Sequence[str], numbers: Numbers) -> list[Markup]:
    """A row's values; a key that other rows have and this one lacks is unknown."""
    return [
        _value(f"{address}.{name}", row[name], numbers) if name in row else Markup(UNKNOWN)
        for name in columns
    ]


def _value(key: str, value: Any, numbers: Numbers) -> Markup:
    """A value of a table: numbers with their key, lists and objects item by item."""
    if isinstance(value, list | tuple):
        items = [_value(f"{key}.{index}", item, numbers) for index, item in enumerate(value)]
        return Markup(" to " if key.endswith("_ci95") else ", ").join(items) or Markup(UNKNOWN)
    if isinstance(value, dict):
        return Markup(", ").join(
            Markup("{} {}").format(name, shown(key, item)) for name, item in value.items()
        )
    if isinstance(value, str | bool):
        return Markup("{}").format(shown(key, value))
    return numbers.html(key)


def _bytes_rows(cells: Sequence[CellTable]) -> list[dict[str, Any]]:
    views = [f"{view}_{way}_bytes" for view in ("predicted", "tcp") for way in ("tx", "rx")]
    return [_named(cell) | {view: cell.row[view] for view in views} for cell in cells]


def _step_rows(cells: Sequence[CellTable]) -> list[dict[str, Any]]:
    rows = []
    for cell in cells:
        low, high = cell.row["step_s_ci95"] or (None, None)
        rows.append(_named(cell) | {"step_s": cell.row["step_s"], "ci95_low_s": low, "ci95_high_s": high})
    return rows


def _share_rows(cells: Sequence[CellTable]) -> list[dict[str, Any]]:
    return [
        _named(cell)
        | {"step_s": cell.row["step_s"], "hidden_comm_s": cell.row["hidden_comm_s"]}
        | {f"{name.removesuffix('_s')}_share": cell.shares[name] for name in ORDER}
        for cell in cells
    ]


def _timeline_rows(timeline: Timeline) -> list[dict[str, Any]]:
    return [
        {
            "rank": lane.rank,
            "host": lane.host,
            "what": name.removesuffix("_s"),
            "start_s": start,
            "end_s": end,
        }
        for lane in timeline.lanes
        for name, start, end in (*lane.phases, *lane.transfers)
    ]


def _named(cell: CellTable) -> dict[str, Any]:
    return {"run_id": cell.run_id} | {
        name: cell.row[name] for name in ("cell", "model", "strategy", "world_size")
    }


def _data_uri(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV in a link that holds them; unknown figures are empty fields."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    return f"data:text/csv;charset=utf-8,{quote(text.getvalue())}"
