"""Text and tables within the terminal's width: a wide table is split or transposed, never cut."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Literal

import pandas as pd

Alignment = Literal["left", "right"]

WIDTH_WITHOUT_TERMINAL = 120
GAP = 2
"""Spaces between two columns."""
LONGEST_NAME = 32
"""In a table that does not fit, longer text is folded, so that there is room for figures beside it."""


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; 120 where stdout is no terminal."""
    return shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns


def wrap(text: str) -> str:
    """A paragraph in lines that fit the terminal, the second and later ones indented."""
    return fill(text, terminal_width(), subsequent_indent="  ", break_on_hyphens=False)


def fit_table(text: pd.DataFrame, alignments: Sequence[Alignment], identifying: int = 1) -> str:
    """A table whose lines fit the terminal.

    A table that is too wide is split by columns into several below each other, or transposed (a column for
    each row), whichever takes fewer lines.

    Args:
        text: the cells as they are printed; their columns are the headings.
        alignments: of each column.
        identifying: how many of the first columns are repeated in every part of a table that is split.
    """
    width = terminal_width()
    if _total(_widths(text)) <= width:
        return _print(text, alignments, width)
    split = "\n\n".join(
        _print(text.iloc[:, part], [alignments[index] for index in part], width)
        for part in _parts(_folded(_widths(text)), identifying, width)
    )
    transposed = _transposed(text, width)
    return min(split, transposed, key=lambda table: table.count("\n"))


def _transposed(text: pd.DataFrame, width: int) -> str:
    """The table with a column for each row, under the values of the first column."""
    heading, *others = text.columns
    turned = pd.DataFrame(
        [[name, *text[name]] for name in others], columns=pd.Index([heading, *text[heading]]), dtype=str
    )
    alignments: list[Alignment] = ["right" for _ in turned.columns]
    alignments[0] = "left"
    return "\n\n".join(
        _print(turned.iloc[:, part], [alignments[index] for index in part], width)
        for part in _parts(_folded(_widths(turned)), 1, width)
    )


def _parts(widths: Sequence[int], identifying: int, width: int) -> list[list[int]]:
    """Positions of the columns of each part: the identifying ones, then as many of the others as fit."""
    first = list(range(identifying))
    parts = [[*first]]
    for index in range(identifying, len(widths)):
        taken = [widths[column] for column in (*parts[-1], index)]
        if len(parts[-1]) > identifying and _total(taken) > width:
            parts.append([*first])
        parts[-1].append(index)
    return parts


def _widths(text: pd.DataFrame) -> list[int]:
    """Characters that each column needs: its longest value or the longest word of its heading."""
    from rich.cells import cell_len

    return [
        max(map(cell_len, [*text.iloc[:, index], *_words(str(name))]), default=0)
        for index, name in enumerate(text.columns)
    ]


def _words(heading: str) -> Iterable[str]:
    """Where a heading may be broken: between words, and after the hyphens of a cell's name."""
    return heading.replace("-", "- ").split()


def _folded(widths: Iterable[int]) -> list[int]:
    return [min(width, LONGEST_NAME) for width in widths]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _print(text: pd.DataFrame, alignments: Sequence[Alignment], width: int) -> str:
    """A table as lines; values that do not fit `width` are folded into several lines."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    widths = _widths(text)
    if _total(widths) > width:
        widths = _folded(widths)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for name, alignment, column_width in zip(text.columns, alignments, widths, strict=True):
        table.add_column(
            fill(str(name), max(column_width, 1)),
            justify=alignment,
            width=column_width if _total(widths) <= width else None,
            overflow="fold",
            vertical="bottom",
        )
    for row in text.itertuples(index=False, name=None):
        table.add_row(*row)
    page = io.StringIO()
    Console(file=page, width=width, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()).strip("\n")
