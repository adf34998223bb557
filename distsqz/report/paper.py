"""What goes into a paper: LaTeX tables that fit a column, and a paragraph about what was measured and how."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from distsqz.errors import InvalidValue
from distsqz.lab.rate import rate_words
from distsqz.report.claims import links_in_words
from distsqz.report.formats import escaped_latex
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import AlikeCells, alike_cells, compare_all, links_of_cells, pooled_ratio
from distsqz.report.run_labels import rates_of
from distsqz.report.speedups import share_cores
from distsqz.strategies.registry import strategy_of

PaperTable = Literal["ratios", "cells"]

Groups = defaultdict[str | None, list[list[str]]]
"""Rows of a table by the heading of their group; None where they need none."""

MODEL_NAMES = {"squeezenet": "SqueezeNet", "alexnet": "AlexNet"}

LONG_STEP_S = 10.0
"""Longest step from which on a table has seconds, as milliseconds would be too wide for a column."""

LONG_NAME = 12
"""Letters from which on a model's name may take several lines; the width of so many is 5 em."""

LONG_HEADING = 45
"""Letters from which on the heading of a group of rows may take several lines."""

CITATION = "which measures what communication costs in distributed training"


def latex_table(runs: Sequence[MeasuredRun], which: PaperTable) -> str:
    r"""A LaTeX table in the style of booktabs, narrow enough for a column of 3.4 inches.

    Needs `\usepackage{booktabs}`. Its caption says what was measured, by which statistic, and what the
    columns are.

    Raises:
        InvalidValue: there are no runs, or nothing to show of them.
    """
    _require_runs(runs)
    return _ratios(runs) if which == "ratios" else _cells(runs)


def _require_runs(runs: Sequence[MeasuredRun]) -> None:
    if not runs:
        raise InvalidValue("runs", None, "must hold at least one run")


def _ratios(runs: Sequence[MeasuredRun]) -> str:
    """Larger models over smaller ones: bytes and step times, a row for each strategy and rate."""
    found = [row for row in compare_all(runs) if row["kind"] == "models"]
    found += [
        _bytes_alone(run, row) for run in runs for row in run.model_comparisons if row["step_ratio"] is None
    ]
    several = len({(row["base"], row["other"]) for row in found}) > 1
    groups: Groups = defaultdict(list)
    for row in found:
        pair = f"{_model(row['other'])} over {_model(row['base'])}" if several else None
        groups[_joined(pair, row["settings"], _mixed_rates(row))].append(
            [
                escaped_latex(strategy_of(row).title),
                escaped_latex(_link(row)),
                _times(row["bytes_ratio"]),
                _times(row["time_ratio"], row["time_ratio_ci95"]),
            ]
        )
    if not found:
        raise InvalidValue("table", "ratios", "no run compares two models in one session; choose cells")
    found_in = [row["sessions"] for row in found]
    pairs = sorted({f"{_model(row['other'])} over {_model(row['base'])}" for row in found})
    statistic = _sentence(_statistic(found_in, "paired blocks"))
    caption = (
        f"{_breakable('; '.join(pairs))}: ratios of the bytes that a worker sends to other hosts in a "
        f"step ({_bytes_of_ratios(found)}), and of step times. {statistic} {_links_note(found)}{_setup(runs)}"
    )
    headings = ["Strategy", "Link", "Bytes ratio", "Step time ratio"]
    return _table(headings, groups, caption, "tab:distsqz-ratios")


def _cells(runs: Sequence[MeasuredRun]) -> str:
    """Bytes and step time of each model, strategy and rate; sessions of the same are pooled."""
    alike = alike_cells(runs)
    rows = [row for run in runs for row in run.rows]
    longest_s = max((row["step_s"] or 0.0 for row in rows), default=0.0)
    unit, scale = ("s", 1.0) if longest_s >= LONG_STEP_S else ("ms", 1e3)
    groups: Groups = defaultdict(list)
    for group in alike:
        groups[_joined(group.settings, _mixed_rates(group.links))].append(_cell_line(group, scale))
    sessions = [max(1, len(_measured_rows(group))) for group in alike]
    names = {strategy.abbreviation: strategy.title for strategy in map(strategy_of, rows)}
    servers = "".join(f"{name}: {title}. " for name, title in sorted(names.items()) if name != title)
    caption = (
        "MB of TCP payload that the busiest host's link must carry in a step, in one direction (by the "
        f"strategy's formula{_where_hosts_are_unknown(rows)}), and step time in {unit}: "
        f"{_statistic(sessions, 'medians')}. {servers}{_links_note([group.links for group in alike])}"
        f"{_setup(runs)}"
    )
    headings = ["Model", "Strategy", "Link", "MB", f"Step, {unit}"]
    return _table(headings, groups, caption, "tab:distsqz-cells")


def _cell_line(group: AlikeCells, scale: float) -> list[str]:
    """A line of the table of cells.

    Args:
        group: the cell's sessions.
        scale: what a step's seconds are multiplied with.
    """
    row = group.cells[0].row
    sizes = [size for cell in group.cells if (size := host_link_or_sent_bytes(cell.row)) is not None]
    return [
        _narrow(_model(row["model"])),
        escaped_latex(strategy_of(row).abbreviation),
        escaped_latex(_link(group.links)),
        _megabytes(sum(sizes) / len(sizes)) if sizes else "--",
        _time(*_typical_step_s(group), scale),
    ]


def _typical_step_s(group: AlikeCells) -> tuple[float | None, Sequence[float] | None]:
    """The step time of a cell's sessions and its interval: of one session its own, of several the pool's."""
    measured = _measured_rows(group)
    if len(measured) > 1:
        return pooled_ratio(np.array([row["step_s"] for row in measured]))
    return (measured[0]["step_s"], measured[0]["step_s_ci95"]) if measured else (None, None)


def _measured_rows(group: AlikeCells) -> list[dict[str, Any]]:
    return [cell.row for cell in group.cells if cell.row["step_s"] is not None]


def _where_hosts_are_unknown(rows: Sequence[dict[str, Any]]) -> str:
    """Words for a caption about the bytes of cells whose hosts are not known; empty if all are known."""
    unknown = [row for row in rows if row.get("host_link_bytes") is None]
    if not unknown:
        return ""
    counted = all(row["tcp_tx_bytes"] is not None for row in unknown)
    what = "as TCP counted it" if counted else "as TCP counted it or, where it did not, by the formula"
    return f"; where hosts are not known, what a worker sends, {what}"


def host_link_or_sent_bytes(row: dict[str, Any]) -> float | None:
    """Bytes on the busiest host's link in a step; what a worker sends where hosts are not known."""
    for name in ("host_link_bytes", "tcp_tx_bytes", "predicted_tx_bytes"):
        if row.get(name) is not None:
            return float(row[name])
    return None


def _statistic(sessions: Sequence[int], within: str) -> str:
    """What a table's numbers and intervals are.

    Args:
        sessions: the number of sessions behind each row.
        within: the statistic of a row that one session measured, `medians` or `paired blocks`.
    """
    one = "medians" if within == "medians" else f"geometric means over {within}"
    of_one = f"{one} of one session with 95\\% bootstrap intervals where there are enough blocks"
    pooled = [number for number in sessions if number > 1]
    if not pooled:
        return of_one
    text = (
        f"geometric means of {_numbers(pooled)} sessions with 95\\% intervals that hold the spread between "
        "sessions"
    )
    return f"{text}; where there is one session, {of_one}" if len(pooled) < len(sessions) else text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _table(headings: Sequence[str], groups: Groups, caption: str, label: str) -> str:
    """A table whose last two columns are numbers; a group of rows has its heading on a line above.

    Rows that need no heading come first, so that they do not seem to belong to a heading above them.
    """
    body: list[str] = []
    for heading, rows in sorted(groups.items(), key=lambda group: group[0] is not None):
        if heading:
            body += [*([r"    \addlinespace"] if body else []), _group_heading(heading, len(headings))]
        body += [f"    {' & '.join(row)} \\\\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\belowcaptionskip}{4pt}",
            f"  \\caption{{{caption}}}",
            f"  \\label{{{label}}}",
            f"  \\begin{{tabular}}{{@{{}}{'l' * (len(headings) - 2)}rr@{{}}}}",
            r"    \toprule",
            f"    {' & '.join(headings)} \\\\",
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _group_heading(text: str, columns: int) -> str:
    """A line across all columns, or several lines as wide as the page's column where the text is long."""
    kind = r"p{\linewidth}" if len(text) > LONG_HEADING else "l"
    shown = rf"\itshape\raggedright {_breakable(text)}"
    return rf"    \multicolumn{{{columns}}}{{@{{}}{kind}@{{}}}}{{{shown}}} \\"


def _joined(*words: str | None) -> str | None:
    """The words that there are, as one heading; None if there are none."""
    return ", ".join(filter(None, words)) or None


def _breakable(text: str) -> str:
    """Text for LaTeX that may go on in the next line within a long name or path."""
    return re.sub(r"(\\_|[=.:]|(?<!bit)/)(?=\S)", r"\1\\allowbreak{}", escaped_latex(text))


def _narrow(name: str) -> str:
    """A name in a cell, in several lines if it is long."""
    if len(name) <= LONG_NAME:
        return escaped_latex(name)
    return rf"\parbox[t]{{5em}}{{\raggedright {_breakable(name)}\strut}}"


def _megabytes(size: float) -> str:
    """Bytes as MB; a decimal of thousands would be too wide for a column."""
    return f"{size / 1e6:,.{0 if size >= 1e9 else 1}f}"


def _times(value: float | None, interval: Sequence[float] | None = None) -> str:
    r"""A ratio such as `$14.7\times$`, with its interval where there is one."""
    if value is None:
        return "--"
    text = f"${_digits(value)}\\times$"
    return text if not interval else f"{text} [{_digits(interval[0])}, {_digits(interval[1])}]"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:,.0f}"


def _time(value: float | None, interval: Sequence[float] | None, scale: float) -> str:
    if value is None:
        return "--"
    text = _digits(value * scale)
    if not interval:
        return text
    return f"{text} [{_digits(interval[0] * scale)}, {_digits(interval[1] * scale)}]"


def _bytes_alone(run: MeasuredRun, row: dict[str, Any]) -> dict[str, Any]:
    """A comparison of models whose step times are not compared, as a row of `pooling.compare_all`."""
    (large,) = (cell for cell in run.cells if cell.row["cell"] == row["large_cell"])
    return {
        **row,
        "base": row["small"],
        "other": row["large"],
        "time_ratio": None,
        "time_ratio_ci95": None,
        "settings": None,
        **links_of_cells([large]),
        "sessions": 1,
    }


def _link(row: dict[str, Any]) -> str:
    """The links of a row of `pooling.pool`, short enough for a column."""
    if row["host_rates_bits_per_s"]:
        return "mixed"
    return (links_in_words(row) or "--").removesuffix(" measured")


def _mixed_rates(row: dict[str, Any]) -> str | None:
    """The rates of links that differ, which are too many for a cell; None if they do not."""
    return f"links of {links_in_words(row)}" if row["host_rates_bits_per_s"] else None


def _links_note(rows: Sequence[dict[str, Any]]) -> str:
    """Sentence about links that are called by what they carried, for a caption."""
    known = any(row["goodput_bytes_per_s"] is not None for row in rows)
    return "Links of no set rate: TCP payload that the slowest carried before training. " if known else ""


def _bytes_of_ratios(rows: Sequence[dict[str, Any]]) -> str:
    sources = {row["bytes_source"] for row in rows if row["bytes_ratio"] is not None}
    if sources <= {"tcp"}:
        return "TCP payload"
    return "by the strategy's formula" if sources == {"predicted"} else "TCP payload, or by the formula"


def _model(name: Any) -> str:
    """A model's name as papers spell it; of one's own model, the name without its package."""
    plain = str(name).rpartition(":")[2]
    return MODEL_NAMES.get(plain, plain)


def _setup(runs: Sequence[MeasuredRun]) -> str:
    """Sentence about workers, images and hosts, for a caption."""
    rows = [row for run in runs for row in run.rows]
    facts = [f"{_numbers(row['world_size'] for row in rows)} workers"]
    if known := [row["batch_size"] for row in rows if row.get("batch_size")]:
        facts.append(f"{_numbers(known)} images a worker and step")
    if known := [row["image_size"] for row in rows if row.get("image_size")]:
        facts.append(f"{_numbers(known)} pixels square")
    if known := [row["data"] for row in rows if row.get("data")]:
        facts.append(f"data: {_breakable(_listed(sorted({*known})))}")
    facts.append(f"{_numbers(row['steps'] for row in rows)} steps a session")
    emulated = ""
    if any(row.get("emulated") for row in rows):
        shared = ", whose cores the hosts share" if any(map(share_cores, rows)) else ""
        emulated = f" Hosts and links are emulated on one machine{shared}."
    return f"{_sentence(', '.join(facts))}{emulated}"


def _numbers(values: Any) -> str:
    return " or ".join(map(str, sorted({*values})))


def methods(runs: Sequence[MeasuredRun]) -> str:
    """A paragraph that says what was measured and how, with versions, and how to cite it.

    Raises:
        InvalidValue: there are no runs.
    """
    _require_runs(runs)
    rows = [row for run in runs for row in run.rows]
    environments = [run.run.meta.get("environment") or {} for run in runs]
    models = sorted({_model(row["model"]) for row in rows})
    strategies = sorted({strategy_of(row).title for row in rows})
    turns = (
        "; the cells took turns in interleaved blocks on the same workers and connections"
        if any(len(run.rows) > 1 for run in runs)
        else ""
    )
    sentences = [
        f"We trained {_listed(models)} by {_listed(strategies)} with "
        f"{_numbers(row['world_size'] for row in rows)} workers in {_sessions(runs)} of "
        f"{_numbers(row['steps'] for row in rows)} measured steps each (warm-up: "
        f"{_numbers(row['warmup_steps'] or 0 for row in rows)}){turns}.",
        *_alone(runs),
        *_data(rows),
        *_servers(runs),
        *_links(runs, rows),
        _bytes(rows),
        "A step's time is that of the slowest worker. We give medians, and ratios as geometric means over "
        "paired blocks, with 95% bootstrap intervals; several sessions are pooled with Student's t over the "
        "logarithms of their ratios. Communication counts as exposed from the moment when a worker's own "
        "gradients are ready; waiting for a later worker is counted apart.",
        f"Processor: {_listed(_distinct(environments, 'cpu'))}. "
        f"{', '.join([*_versions(environments, 'torch', 'ray'), *_distinct(environments, 'platform')])}.",
        f"Cite: {_cited(environments)} (CITATION.cff); runs {', '.join(run.run_id for run in runs)}.",
    ]
    return " ".join(sentences)


def _distinct(environments: Sequence[dict[str, Any]], name: str) -> list[str]:
    """The distinct values of a key in the environments of the runs."""
    return sorted({str(each.get(name) or f"unknown {name}") for each in environments})


def _versions(environments: Sequence[dict[str, Any]], *packages: str) -> list[str]:
    """Each package with the versions that the runs had, such as `torch 2.11.0 or 2.12.0`."""
    return [
        f"{package} {_numbers(known)}"
        for package in packages
        if (known := [v for each in environments if (v := (each.get("versions") or {}).get(package))])
    ]


def _cited(environments: Sequence[dict[str, Any]]) -> str:
    name = "".join(_versions(environments, "distsqz")) or "distsqz"
    return f"{name}, {CITATION}"


def _bytes(rows: Sequence[dict[str, Any]]) -> str:
    """Sentences about where the bytes of the cells are from."""
    counted = [row for row in rows if row["tcp_tx_bytes"] is not None]
    if not counted:
        return "TCP bytes were not counted; bytes follow from the strategy's formula."
    others = (
        ""
        if len(counted) == len(rows)
        else " Where TCP bytes were not counted, they follow from the formula."
    )
    return (
        "Bytes are TCP payload that a worker's sockets to other hosts sent in a step, read from the kernel "
        "(bytes acknowledged and bytes queued); bytes that stay on a host and bytes sent again are left out. "
        f"{_agreement(counted)}{others}"
    )


def _sessions(runs: Sequence[MeasuredRun]) -> str:
    """How many sessions there were, at each rate where rates differ."""

    def counted(number: int) -> str:
        return f"{number} session{'s' if number > 1 else ''}"

    links = Counter(rates_of(run) for run in runs)
    if len(links) == 1:
        return counted(len(runs))
    return _listed(
        [f"{counted(number)} {f'at {at}' if at else 'over other links'}" for at, number in links.items()]
    )


def _alone(runs: Sequence[MeasuredRun]) -> list[str]:
    """Sentence about the baseline, if it was measured."""
    if not any(run.speedups for run in runs):
        return []
    return ["For a baseline one worker trained each model alone while the others waited."]


def _servers(runs: Sequence[MeasuredRun]) -> list[str]:
    """Sentence about the servers of the cells that have some."""
    known = set()
    for cell in (cell for run in runs for cell in run.run.cells if cell.get("servers")):
        options = (cell.get("options") or {}).get("strategy") or {}
        ways = [options.get("placement"), options.get("consistency")]
        number = f"{cell['servers']} server{'s' if cell['servers'] > 1 else ''}"
        known.add(f"{number} ({', '.join(map(str, filter(None, ways)))})" if any(ways) else number)
    return [f"The parameter server had {_listed(sorted(known))}."] if known else []


def _data(rows: Sequence[dict[str, Any]]) -> list[str]:
    known = sorted(
        {
            f"{row['batch_size']} images of {row['image_size']}x{row['image_size']} a worker and step "
            f"from {row['data']}"
            + (f" with {row['num_classes']} classes" if row.get("num_classes") else "")
            + (f" in {row['precision']}" if row.get("precision") else "")
            for row in rows
            if row.get("data") and row.get("batch_size") and row.get("image_size")
        }
    )
    return [f"Training took {_listed(known)}."] if known else []


def _links(runs: Sequence[MeasuredRun], rows: Sequence[dict[str, Any]]) -> list[str]:
    rates = sorted({rate for row in rows for rate in (row.get("emulated_rate_bits_per_s") or {}).values()})
    cores = _numbers(row["machine_cores"] for row in rows if row.get("machine_cores"))
    shared = f" and shared its {cores} cores" if any(map(share_cores, rows)) else ""
    sentences = []
    if rates:
        sentences.append(
            f"Hosts were emulated on one machine (network namespaces){shared}; their links were shaped to "
            f"{_listed([rate_words(rate) for rate in rates])} in each direction."
        )
    goodputs: defaultdict[str | None, list[float]] = defaultdict(list)
    for run in runs:
        goodputs[rates_of(run)] += [link["goodput_bytes_per_s"] * 8e-6 for link in run.links]
    ranges = [
        f"{min(known):,.0f} to {max(known):,.0f} Mbit/s of payload"
        + (f" on links of {rate}" if rate and len(goodputs) > 1 else "")
        for rate, known in goodputs.items()
        if known
    ]
    if ranges:
        sentences.append(
            f"Before training a TCP stream between neighbouring hosts carried {_listed(ranges)}."
        )
    return sentences


def _agreement(rows: Sequence[dict[str, Any]]) -> str:
    """Sentence about how far TCP's count is from the strategy's formula."""
    known = [abs(row["tcp_vs_predicted"]) for row in rows if row["tcp_vs_predicted"] is not None]
    if not known:
        return "There is no formula's count to compare them with."
    most = math.ceil(max(known) * 1e4) / 1e4  # a bound is rounded up
    return f"They agree with what the strategy must send by its formula to within {most:.2%}."


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
