"""What goes into a paper: LaTeX tables that fit a column, and a paragraph about what was measured and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from distsqz.lab.rate import format_rate
from distsqz.report.formats import escaped_latex
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.pooling import pool

PaperTable = Literal["ratios", "cells"]

STRATEGY_NAMES = {"ddp": "all-reduce", "ps": "parameter server"}

CITATION = "distsqz {version}, which measures what communication costs in distributed training"


def latex_table(runs: Sequence[MeasuredRun], which: PaperTable) -> str:
    r"""A LaTeX table in the style of booktabs, narrow enough for a column of 3.4 inches.

    Needs `\usepackage{booktabs}`. Its caption says what was measured, by which statistic, and what the
    columns are.
    """
    return _ratios(runs) if which == "ratios" else _cells(runs)


def _ratios(runs: Sequence[MeasuredRun]) -> str:
    """Larger models over smaller ones: bytes and step times, a row for each strategy and rate."""
    pooled = [row for row in pool(runs) if row["kind"] == "models"]
    found = pooled or [
        {
            **row,
            "base": row["small"],
            "other": row["large"],
            "time_ratio": row["step_ratio"],
            "time_ratio_ci95": row["step_ratio_ci95"],
            "rate_bits_per_s": _rate(run, row["large_cell"]),
        }
        for run in runs
        for row in run.model_comparisons
    ]
    several = len({(row["base"], row["other"]) for row in found}) > 1
    lines = []
    for row in found:
        rate = row["rate_bits_per_s"]
        words = [
            STRATEGY_NAMES.get(row["strategy"], row["strategy"]),
            "--" if rate is None else format_rate(rate),
        ]
        if several:
            words.insert(0, f"{row['other']} / {row['base']}")
        numbers = [_times(row["bytes_ratio"]), _times(row["time_ratio"], row["time_ratio_ci95"])]
        lines.append([*map(escaped_latex, words), *numbers])
    pairs = sorted({f"{row['other']} over {row['base']}" for row in found})
    statistic = (
        f"geometric means of {_numbers(row['sessions'] for row in pooled)} sessions with 95\\% intervals "
        "that hold the spread between sessions"
        if pooled
        else "geometric means over paired blocks of one session with 95\\% bootstrap intervals"
    )
    caption = (
        f"{escaped_latex('; '.join(pairs))}: bytes that a worker sends to other hosts in a step (TCP "
        f"payload), and step time; {statistic}. {_setup(runs)}"
    )
    headings = [*(["Models"] if several else []), "Strategy", "Link", "Bytes", "Step time"]
    return _table(headings, lines, "l" * (len(headings) - 2) + "rr", caption, "tab:distsqz-ratios")


def _cells(runs: Sequence[MeasuredRun]) -> str:
    """Each cell's bytes and step time."""
    lines = []
    for row in (row for run in runs for row in run.rows):
        sent = row["tcp_tx_bytes"] if row["tcp_tx_bytes"] is not None else row["predicted_tx_bytes"]
        lines.append(
            [
                escaped_latex(str(row["model"]).rpartition(":")[2]),
                escaped_latex(row["strategy"]),
                "--" if sent is None else f"{sent / 1e6:,.1f}",
                _milliseconds(row["step_s"], row["step_s_ci95"]),
            ]
        )
    caption = (
        "MB that a worker sends to other hosts in a step (TCP payload), and step time in ms: medians with "
        "95\\% "
        f"bootstrap intervals within a session. {_setup(runs)}"
    )
    return _table(["Model", "Strategy", "MB", "Step, ms"], lines, "llrr", caption, "tab:distsqz-cells")


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: str, caption: str, label: str
) -> str:
    body = "\n".join(f"    {' & '.join(row)} \\\\" for row in rows)
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}",
            f"  \\caption{{{caption}}}",
            f"  \\label{{{label}}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {' & '.join(headings)} \\\\",
            r"    \midrule",
            body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _times(value: float | None, interval: Sequence[float] | None = None) -> str:
    r"""A ratio such as `$14.7\times$`, with its interval where there is one."""
    if value is None:
        return "--"
    text = f"${_digits(value)}\\times$"
    return text if not interval else f"{text} [{_digits(interval[0])}, {_digits(interval[1])}]"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:,.0f}"


def _milliseconds(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "--"
    text = _digits(value * 1e3)
    return text if not interval else f"{text} [{_digits(interval[0] * 1e3)}, {_digits(interval[1] * 1e3)}]"


def _rate(run: MeasuredRun, cell: str) -> int | None:
    (row,) = (row for row in run.rows if row["cell"] == cell)
    rates = {*(row.get("emulated_rate_bits_per_s") or {}).values()}
    return int(rates.pop()) if len(rates) == 1 else None


def _setup(runs: Sequence[MeasuredRun]) -> str:
    """Sentence about workers, images and hosts, for a caption."""
    rows = [row for run in runs for row in run.rows]
    facts = [f"{_numbers(row['world_size'] for row in rows)} workers"]
    if known := [row["batch_size"] for row in rows if row.get("batch_size")]:
        facts.append(f"{_numbers(known)} images a worker and step")
    if known := [row["image_size"] for row in rows if row.get("image_size")]:
        facts.append(f"{_numbers(known)} pixels square")
    emulated = (
        " Hosts and links are emulated on one machine." if any(row.get("emulated") for row in rows) else ""
    )
    return f"{', '.join(facts).capitalize()}.{emulated}"


def _numbers(values: Any) -> str:
    return " or ".join(map(str, sorted({*values})))


def methods(runs: Sequence[MeasuredRun]) -> str:
    """A paragraph that says what was measured and how, with versions, and how to cite it."""
    rows = [row for run in runs for row in run.rows]
    environments = [run.run.meta.get("environment") or {} for run in runs]
    versions = environments[0].get("versions") or {} if environments else {}
    models = sorted({str(row["model"]) for row in rows})
    strategies = sorted({STRATEGY_NAMES.get(row["strategy"], str(row["strategy"])) for row in rows})
    processors = sorted({str(each.get("cpu")) for each in environments})
    steps = _numbers(row["steps"] for row in rows)
    sentences = [
        f"We trained {_listed(models)} by {_listed(strategies)} with "
        f"{_numbers(row['world_size'] for row in rows)} "
        f"workers in {len(runs)} session{'s' if len(runs) > 1 else ''} of {steps} measured steps each; the "
        f"models "
        "took turns in interleaved blocks on the same workers and connections.",
        *_data(rows),
        *_links(runs, rows),
        "Bytes are TCP payload that a worker's sockets to other hosts sent in a step, read from the kernel "
        "(bytes acknowledged and bytes queued); bytes that stay on a host and bytes sent again are left out. "
        f"{_agreement(rows)}",
        "A step's time is that of the slowest worker. We give medians, and ratios as geometric means over "
        "paired "
        "blocks, with 95% bootstrap intervals; several sessions are pooled with Student's t over the "
        "logarithms "
        "of their ratios. Communication counts as exposed from the moment when a worker's own gradients are "
        "ready; waiting for a later worker is counted apart.",
        f"Processor: {_listed(processors)}. "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("torch", "ray"))
        + f", {environments[0].get('platform', 'unknown platform') if environments else ''}.",
        f"Cite: {CITATION.format(version=versions.get('distsqz', ''))} (CITATION.cff); runs "
        f"{', '.join(run.run_id for run in runs)}.",
    ]
    return " ".join(sentences)


def _data(rows: Sequence[dict[str, Any]]) -> list[str]:
    known = sorted(
        {
            f"{row['batch_size']} images of {row['image_size']}x{row['image_size']} a worker and step "
            f"from {row['data']}"
            for row in rows
            if row.get("data") and row.get("batch_size") and row.get("image_size")
        }
    )
    return [f"Training took {_listed(known)}."] if known else []


def _links(runs: Sequence[MeasuredRun], rows: Sequence[dict[str, Any]]) -> list[str]:
    rates = sorted({rate for row in rows for rate in (row.get("emulated_rate_bits_per_s") or {}).values()})
    goodputs = [link["goodput_bytes_per_s"] * 8e-6 for run in runs for link in run.links]
    sentences = []
    if rates:
        sentences.append(
            "Hosts were emulated on one machine (network namespaces) and their links shaped to "
            f"{_listed([format_rate(rate) for rate in rates])} in each direction."
        )
    if goodputs:
        sentences.append(
            f"Before training a TCP stream carried {min(goodputs):,.0f} to {max(goodputs):,.0f} Mbit/s of "
            f"payload "
            "between neighbouring hosts."
        )
    return sentences


def _agreement(rows: Sequence[dict[str, Any]]) -> str:
    """Sentence about how far TCP's count is from the formula."""
    known = [abs(row["tcp_vs_predicted"]) for row in rows if row["tcp_vs_predicted"] is not None]
    if not known:
        return "TCP's count was not available."
    return f"They agree with what the algorithm must send to within {max(known):.2%}."


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
