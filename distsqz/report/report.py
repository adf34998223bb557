"""The report on finished runs, or on one that is still going."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import pandas as pd

from distsqz.lab.rate import format_rate
from distsqz.report.comparisons import compare_all, compare_options, compare_strategies
from distsqz.report.formats import Format, prose, ratio, render, to_json
from distsqz.report.lateness import lateness_remarks
from distsqz.report.tables import (
    LOCAL,
    VIEWS,
    CellTable,
    hosts_by_rate,
    read_links,
    read_shards,
    staleness_histogram,
)
from distsqz.runs import COMPLETE, FAILED, INTERRUPTED, RUNNING, Run

CELL_COLUMNS = [
    "model",
    "strategy",
    "world_size",
    "steps",
    "params",
    "payload_bytes",
    "predicted_tx_bytes",
    "tcp_tx_bytes",
    "tcp_vs_predicted",
    "step_s",
    "step_s_ci95",
    "compute_s",
    "exposed_comm_s",
    "comm_share",
    "wait_s",
    "wait_share",
    "samples_per_s",
    "busbw_bytes_per_s",
]
SERVER_COLUMNS = ["servers", "placement", "consistency"]
SHARD_COLUMNS = [
    "cell",
    "shard",
    "host",
    "pushes",
    "received_bytes",
    "dropped",
    "queue_wait_s",
    "service_s",
    "busy_s",
]
STALENESS_COLUMNS = ["cell", "staleness", "updates", "share"]
STRATEGY_COLUMNS = [
    "model",
    "world_size",
    "strategy",
    *SERVER_COLUMNS,
    "over",
    "bytes_ratio",
    "bytes_source",
    "step_ratio",
    "step_ratio_ci95",
    "paired",
    "pairs",
]
COMPARISON_COLUMNS = [
    "strategy",
    "world_size",
    "small",
    "large",
    "bytes_ratio",
    "bytes_source",
    "step_ratio",
    "step_ratio_ci95",
    "paired",
    "pairs",
]
OPTION_COLUMNS = [
    "option",
    "small",
    "large",
    "small_cell",
    "bytes_ratio",
    "step_ratio",
    "step_ratio_ci95",
    "pairs",
]
LINK_COLUMNS = ["host", "peer_host", "goodput_bytes_per_s", "goodput_bits_per_s", "rtt_us"]
MOST_LINKS = 16
"""That the table for people shows of each run."""


def print_report(runs: Sequence[Run], cells: Sequence[list[CellTable]], fmt: Format) -> None:
    """Prints what the runs found.

    Views that do not go together are named on stderr too, and remarks that have no place in csv.
    """
    for warning in dict.fromkeys(chain.from_iterable(map(breach_warnings, cells))):
        print(warning, file=sys.stderr)
    print(report(runs, cells, fmt))
    if fmt == "csv":
        for remark in remarks(runs, cells):
            print(remark, file=sys.stderr)


def report(runs: Sequence[Run], cells: Sequence[list[CellTable]], fmt: Format) -> str:
    """What the runs found; `cells` holds each run's."""
    rows = [cell.row for cell in chain(*cells)]
    if fmt == "csv":
        return render(_frame(rows), fmt)
    comparisons = compare_all(cells)
    strategies = list(chain(*(compare_strategies(of_run) for of_run in cells)))
    of_options = list(chain(*(compare_options(of_run) for of_run in cells)))
    links = {run.run_id: read_links(run) for run in runs}
    shards = {run.run_id: read_shards(run) for run in runs}
    stale = {run.run_id: staleness_histogram(run) for run in runs}
    if fmt == "json":
        entries = [
            {
                "path": str(run.path),
                **_without(run.meta, "cells"),
                "warnings": [*_faults(run, [cell.row for cell in of_run]), *breach_warnings(of_run)],
                "breaches": [asdict(breach) for cell in of_run for breach in cell.breaches],
                "links": links[run.run_id],
                "shards": shards[run.run_id],
                "staleness": stale[run.run_id],
            }
            for run, of_run in zip(runs, cells, strict=True)
        ]
        return to_json(
            {
                "runs": entries,
                "cells": rows,
                "comparisons": comparisons,
                "strategy_comparisons": strategies,
                "option_comparisons": of_options,
            }
        )
    said = prose(
        [
            *findings(comparisons, rows),
            *strategy_findings(strategies),
            *_hottest(shards),
            *remarks(runs, cells),
        ],
        fmt,
    )
    told = [
        *tables(rows, comparisons, links, fmt),
        *option_tables(of_options, fmt),
        *server_tables(strategies, shards, stale, fmt),
    ]
    return "\n\n".join(part for part in (*told, said) if part)


def tables(
    rows: list[dict[str, Any]],
    comparisons: list[dict[str, Any]],
    links: dict[str, list[dict[str, Any]]],
    fmt: Format,
) -> list[str]:
    """The tables for people: cells, bytes, links by the id of their run, comparisons."""
    run_ids = {row["run_id"] for row in rows}
    several = ["run_id"] if len(run_ids) > 1 else []
    title = "Cells" if several else f"Cells of {''.join(run_ids)}"
    known = {name for row in rows for name, value in row.items() if value is not None}
    optional = [
        name
        for name in (*SERVER_COLUMNS, "busbw_vs_goodput", "comm_vs_bound", "accuracy")
        if name in known and (name != "comm_vs_bound" or "servers" in known)
    ]
    views = [view for view in VIEWS if view != "wire_tx_bytes" or view in known]
    if any(row[name] for row in rows for name in LOCAL):
        views += LOCAL
    if "wire_tx_bytes" in known:
        views.append("wire_vs_tcp")
    compared = ["small_run_id", "large_run_id"] if several else []
    links_title, shown_links = _slowest_links(links)
    wanted = [
        (title, rows, [*several, *CELL_COLUMNS, *optional]),
        (_views_title(views), rows, [*several, "cell", *views]),
        (links_title, shown_links, [*several, *LINK_COLUMNS]),
        (
            f"Larger model over smaller ({_how_times_are_compared(comparisons)})",
            comparisons,
            [*COMPARISON_COLUMNS, *compared],
        ),
    ]
    names = {"world_size": "workers", "nic_tx_bytes": "interface_tx_bytes"}
    return [
        render(_frame(content).reindex(columns=columns).rename(columns=names), fmt, title)
        for title, content, columns in wanted
        if content
    ]


def option_tables(of_options: list[dict[str, Any]], fmt: Format) -> list[str]:
    """The table of cells that differ in one option, if there are any."""
    title = f"Cells that differ in one option: to over from ({_how_times_are_compared(of_options)})"
    columns = {"small": "from", "large": "to", "small_cell": "from_cell"}
    frame = _frame(of_options).reindex(columns=OPTION_COLUMNS).rename(columns=columns)
    return [render(frame, fmt, title)] if of_options else []


def _views_title(views: Sequence[str]) -> str:
    notes = ["interface: by its whole host"]
    if "wire_tx_bytes" in views:
        notes.append("wire: likewise, with the headers of every frame; vs tcp: all processes of a host")
    if LOCAL[0] in views:
        notes.append("local: to processes on its own host, which predicted and tcp leave out")
    number = "Five" if "wire_tx_bytes" in views else "Four"
    return f"{number} views of the bytes that a rank sends a step ({'; '.join(notes)})"


def server_tables(
    strategies: list[dict[str, Any]],
    shards: dict[str, list[dict[str, Any]]],
    stale: dict[str, list[dict[str, Any]]],
    fmt: Format,
) -> list[str]:
    """The tables that a parameter server adds; shards and staleness by the id of their run."""
    several = ["run_id"] if len(shards) > 1 else []
    wanted = [
        (
            "Parameter server over all-reduce, the same model (bytes: what all processes, servers too, send "
            "to other hosts, or over loopback on one host; "
            f"{_how_times_are_compared(strategies)})",
            strategies,
            STRATEGY_COLUMNS,
        ),
        ("Shards (the busiest of a cell first; waits and service: medians)", _flat(shards), SHARD_COLUMNS),
        ("Staleness: updates by others that an update missed", _flat(stale), STALENESS_COLUMNS),
    ]
    return [
        render(
            _frame(content)
            .reindex(columns=columns if content is strategies else [*several, *columns])
            .rename(columns={"world_size": "workers"}),
            fmt,
            title,
        )
        for title, content, columns in wanted
        if content
    ]


def _flat(by_run: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"run_id": run_id, **row} for run_id, rows in by_run.items() for row in rows]


def _hottest(shards: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Which shard of each cell had the most to do."""
    lines = []
    for rows in shards.values():
        for cell in dict.fromkeys(row["cell"] for row in rows):
            first, *others = [row for row in rows if row["cell"] == cell]
            if others:
                mean = sum(row["received_bytes"] for row in (first, *others)) / (1 + len(others))
                lines.append(
                    f"The hottest shard of {cell} is {first['shard']} on {first['host']}: it received "
                    f"{first['received_bytes']:,} bytes, {ratio(first['received_bytes'] / mean)} the mean."
                )
    return lines


def _slowest_links(links: dict[str, list[dict[str, Any]]]) -> tuple[str, list[dict[str, Any]]]:
    """The table of links, with its title: all of each run, or as many of the slowest as people can read."""
    title, shown = "Links, measured before training", []
    for run_id, of_run in links.items():
        if len(of_run) > MOST_LINKS:
            title = f"Links, measured before training (the {MOST_LINKS} slowest of each run that has more)"
            of_run = sorted(of_run, key=lambda link: float(link["goodput_bytes_per_s"]))
        shown += [
            {"run_id": run_id, **link, "goodput_bits_per_s": link["goodput_bytes_per_s"] * 8}
            for link in of_run[:MOST_LINKS]
        ]
    return title, shown


def findings(comparisons: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each comparison: what the smaller model saves, and how sure that is."""
    by_cell = {(row["run_id"], row["cell"]): row for row in rows}
    return [
        _finding(
            comparison,
            by_cell[comparison["small_run_id"], comparison["small_cell"]],
            by_cell[comparison["large_run_id"], comparison["large_cell"]],
        )
        for comparison in comparisons
    ]


def strategy_findings(strategies: list[dict[str, Any]]) -> list[str]:
    """A sentence for each comparison of strategies whose step times may not be compared, and why."""
    return [
        f"With {_workers(compared)}, for {compared['model']} under {compared['over']} and "
        f"{compared['strategy']}, {'; '.join(doubts)}."
        for compared in strategies
        if (doubts := _doubts(compared))
    ]


def remarks(runs: Sequence[Run], cells: Sequence[list[CellTable]]) -> list[str]:
    """What a reader must know before believing the figures: how each run ended, where it ran."""
    several = len(runs) > 1
    return [
        f"{run.run_id}: {line}" if several else line
        for run, of_run in zip(runs, cells, strict=True)
        for line in _remarks(run, of_run)
    ]


def _remarks(run: Run, cells: list[CellTable]) -> list[str]:
    rows = [cell.row for cell in cells]
    ending = _ending(run, rows)
    lines = [*([ending] if ending else []), *_faults(run, rows), *breach_warnings(cells)]
    lines += dict.fromkeys(_setting(row) for row in rows)
    lines += chain.from_iterable(map(lateness_remarks, rows))
    lines += chain.from_iterable(map(_bytes_remarks, rows))
    if any(row.get("interface") == "lo" for row in rows):
        lines.append(
            "The network was loopback: byte counts are real, but step times show this machine "
            "and not a network link."
        )
    lines += dict.fromkeys(_emulation(row) for row in rows if row.get("emulated"))
    crowded = [row for row in rows if row["oversubscribed"]]
    if crowded:
        lines.append(_oversubscription(crowded))
    return lines


def _emulation(row: dict[str, Any]) -> str:
    """What about a cell's network was not real."""
    rates = {format_rate(rate): hosts for rate, hosts in hosts_by_rate(row).items()}
    told = "Hosts and links were emulated on one machine"
    if not rates:
        return f"{told}."
    if len(rates) == 1:
        return f"{told}: each link shaped to {next(iter(rates))} each way, no delay added."
    each = "; ".join(f"{rate} for {', '.join(hosts)}" for rate, hosts in rates.items())
    return f"{told}: links shaped each way, to {each}; no delay added."


def _setting(row: dict[str, Any]) -> str:
    """What a cell was trained on and how, as far as its run tells."""
    told = [
        (f"{row['world_size']} workers", True),
        (f"on {row.get('data')} images at {row.get('image_size')}x{row.get('image_size')}", row.get("data")),
        (f"{row.get('batch_size')} a worker a step", row.get("batch_size")),
        (f"{row.get('num_classes')} classes", row.get("num_classes")),
        (f"{row.get('precision')}", row.get("precision")),
        (f"compute threads a worker: {row.get('threads_per_worker')}", row.get("threads_per_worker")),
    ]
    return f"Trained with {', '.join(words for words, known in told if known)}."


def _finding(comparison: dict[str, Any], small: dict[str, Any], large: dict[str, Any]) -> str:
    where = f"With {_workers(comparison)} under {comparison['strategy']}"
    if not comparison["differences"]:
        claims = [_bytes_claim(comparison, small, large), _time_claim(comparison)]
    elif comparison["bytes_ratio"] is not None:
        claims = [_bytes_claim(comparison, small, large)]
    else:
        where, claims = f"{where}, for {small['model']} and {large['model']}", []
    return f"{where}, {'; '.join([*claims, *_doubts(comparison)])}."


def _workers(comparison: dict[str, Any]) -> str:
    workers = comparison["world_size"]
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _doubts(comparison: dict[str, Any]) -> list[str]:
    """Why times, or bytes too, are not compared, and what may differ without being recorded."""
    differences, not_recorded = comparison["differences"], comparison["not_recorded"]
    doubts = []
    if differences:
        left_out = "step times" if comparison["bytes_ratio"] is not None else "bytes and step times"
        doubts.append(f"{left_out} are not compared, as these differ: {', '.join(differences)}")
    if not_recorded:
        doubts.append(f"not recorded, and possibly different: {', '.join(not_recorded)}")
    return doubts


def _how_times_are_compared(comparisons: list[dict[str, Any]]) -> str:
    """What the step ratios of a table are."""
    ways = {True: "paired, geometric means over blocks", False: "unpaired, ratios of medians"}
    compared = {comparison["paired"] for comparison in comparisons if comparison["step_ratio"] is not None}
    told = ", or ".join(way for paired, way in ways.items() if paired in compared)
    return f"step times: {told}" if told else "no step times compared"


def _bytes_claim(comparison: dict[str, Any], small: dict[str, Any], large: dict[str, Any]) -> str:
    source = comparison["bytes_source"]
    if source is None:
        return f"{small['model']} and {large['model']} sent no bytes that could be compared"
    verb, kind = ("sends", "of TCP payload") if source == "tcp" else ("must send", "by prediction")
    if small.get("spans_hosts"):
        kind += " to other hosts"
    column = f"{source}_tx_bytes"
    return (
        f"a rank {verb} {small[column]:,.0f} bytes {kind} a step for {small['model']} and "
        f"{large[column]:,.0f} for {large['model']}: {ratio(comparison['bytes_ratio'])} fewer"
    )


def _time_claim(comparison: dict[str, Any]) -> str:
    """The smaller model's time over the larger's: the inverse of `step_ratio`, as a saving is told."""
    small, large = comparison["small"], comparison["large"]
    if comparison["step_ratio"] is None:
        return "no step times to compare yet"
    time = f"{ratio(1 / comparison['step_ratio'])} the time of {large}'s"
    if comparison["step_ratio_ci95"] is None:
        return f"{small}'s step takes {time} (too few steps to say how sure that is)"
    low, high = (1 / end for end in reversed(comparison["step_ratio_ci95"]))
    how = "paired blocks" if comparison["paired"] else "unpaired"
    if comparison["small_run_id"] != comparison["large_run_id"]:
        how = f"separate runs, {how}"
    sureness = f"[{ratio(low)}, {ratio(high)}], 95% bootstrap interval, {how}"
    if low <= 1 <= high:
        return f"their step times cannot be told apart: {small}'s step takes {time} ({sureness})"
    return f"{small}'s step takes {time} ({sureness})"


def _ending(run: Run, rows: list[dict[str, Any]]) -> str | None:
    status = run.meta["status"]
    done = sum(row["steps"] for row in rows)
    planned = sum(row["planned_steps"] or 0 for row in rows)
    progress = f"{done:,} of {planned:,} measured steps" if planned else f"{done:,} measured steps"
    endings = {
        FAILED: f"The run failed after {progress}: {run.error_text or 'no reason was written'}",
        INTERRUPTED: f"The run was interrupted after {progress}.",
        RUNNING: f"The run has done {progress}; it is still going, or was killed.",
    }
    return None if status == COMPLETE else endings.get(status, f"The run ended as {status!r}.")


def _faults(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """What is missing of a run, although it may have completed."""
    lines = run.faults()
    if run.meta["status"] == COMPLETE:
        lines += [
            f"Warning: the run completed, but {row['cell']} has {row['steps']:,} of {row['planned_steps']:,} "
            "measured steps."
            for row in rows
            if row["planned_steps"] is not None and row["steps"] < row["planned_steps"]
        ]
    return lines


def breach_warnings(cells: Sequence[CellTable]) -> list[str]:
    """A sentence for each pair of views that does not go together."""
    return [f"Warning: {breach.told()}" for cell in cells for breach in cell.breaches]


def _bytes_remarks(row: dict[str, Any]) -> list[str]:
    """What the bytes of a cell leave out, where there is any of it."""
    lines = []
    if row["tcp_local_tx_bytes"] or row["predicted_local_tx_bytes"]:
        local = row["tcp_local_tx_bytes"]
        known = "predicted" if local is None else "TCP"
        local = row["predicted_local_tx_bytes"] if local is None else local
        lines.append(
            f"Bytes of {row['cell']} are those that cross the network. What a rank sends to processes on its "
            f"own host ({local:,.0f} bytes a step by {known}) is left out."
        )
    if row["queue_dropped_packets"]:
        lines.append(
            f"The queues of the sending hosts dropped packets of {row['cell']} before they were on the wire "
            f"({row['queue_dropped_packets']:,.1f} a step and rank). TCP sent them later; a byte counts once."
        )
    if row["tcp_retrans_bytes"]:
        lines.append(
            f"TCP sent {row['tcp_retrans_bytes']:,.0f} bytes a step and rank of {row['cell']} again; "
            "they are not counted as payload."
        )
    return lines


def _oversubscription(rows: list[dict[str, Any]]) -> str:
    shares = [row["sched_wait_share"] for row in rows if row["sched_wait_share"] is not None]
    waited = f" (training threads waited up to {max(shares):.1%} of a step for one)" if shares else ""
    if all(row.get("emulated") for row in rows):
        meaning = (
            "compute times show hosts that share this machine's cores, and hosts of their own would compute "
            "faster; whether the links were full, busbw of goodput tells."
        )
    else:
        meaning = "such step times show the machine, not the network."
    cells = ", ".join(row["cell"] for row in rows)
    return f"Warning: cores were oversubscribed in {cells}{waited}: {meaning}"


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame that keeps each value as it is: an integer beside a null stays an integer."""
    return pd.DataFrame(rows, dtype=object)


def _without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
