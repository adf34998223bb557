"""Reports what runs measured: `distsqz report [RUN ...]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from distsqz import open_run
from distsqz.errors import RequestError
from distsqz.metering.schema import TABLES
from distsqz.report.formats import prose
from distsqz.report.legend import legend
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.paper import PaperTable, latex_table, methods
from distsqz.report.pooling import pool
from distsqz.report.report import print_report, read_sections
from distsqz.report.section import Format
from distsqz.report.shipments import is_deployment
from distsqz.runs.listing import newest_run, runs_under
from distsqz.runs.reader import Run

DESCRIPTION = "Report what runs measured: bytes and times of each cell, and what a smaller model saves."
PROSE_FORMATS = ("table", "markdown", "latex")
FIGURE_SUFFIXES = (".svg", ".png", ".pdf")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz report`."""

    run: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]")] = ()
    """Run directories, or ids of runs under --runs; the newest by default."""
    runs: Path = Path("runs")
    """Directory in which runs are found by id."""
    format: Format = "table"
    """Format of the report on stdout. json has everything; csv has the cells only, or the shipments."""
    figure: Path | None = None
    """File (.svg, .png or .pdf) in which to draw bytes and step times of training runs; of several
    sessions their pooled ratios by the rate of the links."""
    table: PaperTable | None = None
    """For --format latex: a single table for a paper, of the ratios between models or of the cells. It fits a
    column of 3.4 inches and needs the package booktabs."""
    methods: bool = False
    """Print a paragraph about what was measured and how, with versions and how to cite it, in place of the
    report."""
    legend: bool = False
    """Print what each column of the tables means, below the report."""
    html: Path | None = None
    """File in which to write the report as one HTML page, which needs no other file and no network."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


def main(options: Options) -> None:
    """Prints the report, and draws the figure if one is asked for."""
    if options.figure and options.figure.suffix not in FIGURE_SUFFIXES:
        raise RequestError(f"--figure {options.figure}: must end in {' or '.join(FIGURE_SUFFIXES)}")
    if options.table and options.format != "latex":
        raise RequestError(f"--table {options.table}: is for LaTeX; add --format latex")
    if options.methods and options.format not in PROSE_FORMATS:
        raise RequestError(
            f"--format {options.format}: --methods is a paragraph; give {', '.join(PROSE_FORMATS)}"
        )
    if options.methods and options.legend:
        raise RequestError("--legend: explains the report's columns; leave it out with --methods")
    for name in ("figure", "html"):
        _check_writable(name, getattr(options, name))
    runs = find_runs(options.run, options.runs)
    if any(map(is_deployment, runs)):
        for name in ("table", "methods"):
            if getattr(options, name):
                raise RequestError(f"--{name}: is for runs that trained; leave it out for these")
        if not all(map(is_deployment, runs)):
            raise RequestError("RUN: some deployed and some trained; report on them apart")
        if options.figure:
            raise RequestError(f"--figure {options.figure}: draws runs that trained; leave it out for these")
    measured = [MeasuredRun(run) for run in runs]
    if options.table:
        print(latex_table(measured, options.table))
    elif options.methods:
        print(prose([methods(measured)], options.format))
    else:
        print_report(measured, options.format)
        if options.legend:
            lines = legend(measured, read_sections(measured))
            print(f"\n{prose(lines, 'table')}", file=sys.stdout if options.format == "table" else sys.stderr)
    if options.figure:
        _draw(measured, options.figure)
    if options.html:
        _write_page(measured, options.html)


def _check_writable(name: str, path: Path | None) -> None:
    """Refuses a file in a directory that does not exist before anything is printed."""
    if path and not path.parent.is_dir():
        raise RequestError(
            f"--{name} {path}: cannot be written (No such file or directory); "
            "name a file in an existing directory"
        )


def _draw(runs: Sequence[MeasuredRun], path: Path) -> None:
    """Draws pooled sessions, or the cells where there are none."""
    from distsqz.report.figures import draw, draw_ratios  # matplotlib takes a second to import

    pooled = pool(runs)
    if any(row["kind"] == "models" for row in pooled):
        draw_ratios(pooled, path)
    else:
        draw(list(chain.from_iterable(run.cells for run in runs)), path)


def _write_page(runs: Sequence[MeasuredRun], path: Path) -> None:
    """Writes the report as a page, and the page's path to stderr."""
    from distsqz.report.page.page import page_of  # jinja2 comes with an extra

    page = page_of(runs)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"--html {path}: cannot be written ({error.strerror}); name a file in an existing directory"
        ) from error
    print(f"page: {path}", file=sys.stderr)


def find_runs(names: Sequence[str], root: Path) -> list[Run]:
    """The runs named, each once, or the newest under `root`; copies are left out, and named on stderr.

    Raises:
        RequestError: there is no such run.
    """
    paths = [_find_run(name, root) for name in names] or [newest_run(root)]
    by_id: dict[str, Run] = {}
    for run in [open_run(path) for path in dict.fromkeys(path.resolve() for path in paths)]:
        first = by_id.setdefault(run.run_id, run)
        if first is not run:
            print(f"left out {run.path}: the same run as {first.path}", file=sys.stderr)
    return list(by_id.values())


def _find_run(name: str, root: Path) -> Path:
    """A run's directory, by its path, by its name under `root`, or by the id of a run that was renamed."""
    name = os.path.expanduser(name)  # noqa: PTH111 - unlike Path's, does not raise
    for path in (Path(name), root / name):
        if os.path.isfile(path / "run.json"):  # noqa: PTH113 - unlike Path's, does not raise for any name
            return path
    known = runs_under(root, TABLES)[0]
    for run in known:
        if run.run_id == name:
            return run.path
    ending = [run for run in known if run.run_id.endswith(f"-{name}")]
    if len(ending) == 1:
        return ending[0].path
    if ending:
        ids = ", ".join(run.run_id for run in ending)
        raise RequestError(f"RUN {name}: ends the ids of {len(ending)} runs; give one of {ids}")
    if os.path.isdir(name):  # noqa: PTH112 - likewise
        if inside := runs_under(Path(name), TABLES)[0]:
            raise RequestError(
                f"RUN {name}: holds {len(inside)} run{'s' if len(inside) > 1 else ''}; "
                f"add --runs {name}, or name runs in it"
            )
        return Path(name)  # Run says why it is none
    if Path(name).name == "run.json":
        raise RequestError(f"RUN {name}: is a file of a run; give its directory")
    raise RequestError(
        f"RUN {name}: neither a run directory nor the id of a run under --runs {root}, nor the end of one; "
        "`distsqz runs` lists them"
    )
