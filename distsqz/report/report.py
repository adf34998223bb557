"""The report on finished runs, or on one that is still going: its sections, printed in any format."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import pandas as pd

from distsqz.report.faults import breach_warnings, missing_rows
from distsqz.report.formats import prose, render, to_json
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Format, Section
from distsqz.report.sections import SHIPPING, TRAINING
from distsqz.report.sections.shipments import shipment_warnings


def print_report(runs: Sequence[MeasuredRun], fmt: Format) -> None:
    """Prints what the runs measured.

    Views of the bytes that contradict each other are named on stderr too, and so is all prose beside csv.
    """
    sections = read_sections(runs)
    trained = [run for run in runs if not run.shipped]
    for warning in dict.fromkeys(chain.from_iterable(breach_warnings(run.cells) for run in trained)):
        print(warning, file=sys.stderr)
    print(render_report(runs, sections, fmt))
    if fmt == "csv":
        for line in _prose_of_runs(sections):
            print(line, file=sys.stderr)


def read_sections(runs: Sequence[MeasuredRun]) -> list[Section]:
    """The sections of the report in the order of printing; all of the runs trained, or all shipped."""
    builders = SHIPPING if any(run.shipped for run in runs) else TRAINING
    return [build(runs) for build in builders]


def render_report(runs: Sequence[MeasuredRun], sections: Sequence[Section], fmt: Format) -> str:
    """The sections as text.

    For people the findings of all sections come first, then each section's table with its notes below it.
    `table` leaves out tables that are not noteworthy. `csv` has the cells, or the shipments; `json` has
    everything.
    """
    if fmt == "json":
        return to_json(document(runs, sections))
    if fmt == "csv":
        (rows,) = (section.rows for section in sections if section.in_csv)
        return render(_frame(rows), fmt)
    findings = [sentence for section in sections for sentence in section.sentences]
    parts = [prose(findings, fmt), *(_render_section(section, fmt) for section in sections)]
    return "\n\n".join(part for part in parts if part)


def document(runs: Sequence[MeasuredRun], sections: Sequence[Section]) -> dict[str, Any]:
    """The report as one JSON object: the runs, then the rows of every section where `addresses` says.

    `notes` has the notes of every section that has any, by its key.
    """
    entries = {run.run_id: _run_entry(run) for run in runs}
    content: dict[str, Any] = {"runs": list(entries.values())}
    for section in sections:
        if section.in_run:
            for entry in entries.values():
                entry[section.rows_key] = []
            for row in section.rows:
                of_run = {name: value for name, value in row.items() if name != "run_id"}
                entries[row["run_id"]][section.rows_key].append(of_run)
        elif section.columns:
            content.setdefault(section.rows_key, list(section.rows))
    content["notes"] = {section.key: list(section.notes) for section in sections if section.notes}
    return content


def _run_entry(measured: MeasuredRun) -> dict[str, Any]:
    """A run's run.json without its cells, and what is wrong with its figures."""
    meta = {name: value for name, value in measured.run.meta.items() if name != "cells"}
    entry = {"path": str(measured.run.path), **meta}
    if measured.shipped:
        return entry | {"warnings": shipment_warnings(measured)}
    return entry | {
        "warnings": [*missing_rows(measured), *breach_warnings(measured.cells)],
        "breaches": [asdict(breach) for cell in measured.cells for breach in cell.breaches],
    }


def _render_section(section: Section, fmt: Format) -> str:
    """A section's table and notes; empty if there is nothing to show."""
    if not section.columns:
        return prose(list(section.notes), fmt)
    rows = [section.rows[index] for index in section.visible()]
    if not rows or (fmt == "table" and not section.noteworthy):
        return ""
    frame = _frame(rows).reindex(columns=list(section.columns)).rename(columns=section.headings)
    table = render(frame, fmt, section.title, section.identifying)
    return "\n\n".join([table, prose(list(section.notes), fmt)] if section.notes else [table])


def _prose_of_runs(sections: Sequence[Section]) -> Iterator[str]:
    """Sentences about the runs as a whole: those of sections without a table."""
    for section in sections:
        if not section.columns or section.in_csv:
            yield from (*section.sentences, *section.notes)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame that keeps each value as it is: an integer beside a null stays an integer."""
    return pd.DataFrame(list(rows), dtype=object)
