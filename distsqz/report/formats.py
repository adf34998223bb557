"""Formats of a table: with units and separators for people, raw values for programs.

A column's name carries its unit (`step_s`, `tcp_tx_bytes`, `comm_share`), and the unit decides how people
read its numbers; whoever builds a table need only name its columns well.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from distsqz.report.section import Format
from distsqz.report.terminal import Alignment, fit_table, wrap

UNKNOWN = "–"  # noqa: RUF001  # an en dash stands for "no figure"

HEADINGS = {"world_size": "workers"}
"""Headings that replace the name of a column."""


def render(frame: pd.DataFrame, fmt: Format, title: str | None = None, identifying: int = 1) -> str:
    """Returns a frame as text, without its index.

    `table`, `markdown` and `latex` show numbers as people read them: bytes exactly, with thousands
    separators; seconds as milliseconds below ten; shares in percent; nulls as a dash. `table` keeps within
    the terminal's width. `csv` and `json` (a list of rows) keep the numbers and column names as they are and
    leave out the title.

    Args:
        frame: the rows.
        fmt: one of the formats.
        title: a line above the table.
        identifying: how many of the first columns say what a row is about; where `table` must split a wide
            table, every part begins with them.
    """
    if fmt == "csv":
        return _as_csv(frame)
    if fmt == "json":
        return to_json(frame.to_dict("records"))
    text = _humanise(frame).map(_escaped, fmt=fmt).rename(columns=lambda name: _escaped(name, fmt))
    if fmt == "table":
        table = fit_table(text, _alignments(frame), identifying)
        return f"{wrap(title)}\n{table}" if title else table
    return _PRINTERS[fmt](text, _alignments(frame), title)


def to_json(value: Any) -> str:
    """Strict JSON: what is not a number (NaN, infinity) is null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def prose(lines: list[str], fmt: Format) -> str:
    """Paragraphs to stand beside tables of the same format; `table` keeps within the terminal's width."""
    lines = [_escaped(line, fmt) for line in lines]
    return "\n".join(map(wrap, lines)) if fmt == "table" else "\n\n".join(lines)


def escaped_latex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return _escaped(text, "latex")


def column_text(name: str, values: Sequence[Any]) -> tuple[str, list[str]]:
    """A column for people: its heading with the unit, and each value in that unit."""
    plain = [_plain(value) for value in values]
    heading, show = _unit(HEADINGS.get(name, name), plain)
    return heading, [_show(value, show) for value in plain]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if _is_null(value) else value


def _is_null(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return value is None or value is pd.NA or value is pd.NaT


def _as_csv(frame: pd.DataFrame) -> str:
    # Not frame.to_csv: on the way there, an integer beside a null would become a float.
    lines: list[str] = []
    # The writer quotes the characters of its line terminator only, and a lone \r ends a line as \n does.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow(frame.columns)
    writer.writerows([_flat(value) for value in row] for row in frame.itertuples(index=False, name=None))
    return "\n".join(line.removesuffix("\r\n") for line in lines)


def _flat(value: Any) -> Any:
    """A CSV field: lists and objects as JSON."""
    return json.dumps(_plain(value)) if isinstance(value, list | tuple | dict) else _plain(value)


def _humanise(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(dict(column_text(str(name), list(frame[name])) for name in frame.columns), dtype=str)


def _escaped(text: str, fmt: Format) -> str:
    """Text that the format shows as it is; a line break or another control character as Python writes it."""
    printable = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
    if fmt == "latex" and printable.startswith(("[", "*")):  # would be an argument of the row's end before it
        return "{}" + printable.translate(_LATEX_ESCAPES)
    return printable.translate(_ESCAPES.get(fmt, {}))


def _show(value: Any, show: Callable[[float], str]) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{', '.join(_show(item, show) for item in value)}]"
    return show(value) if isinstance(value, int | float) else str(value)


def _unit(name: str, values: list[Any]) -> tuple[str, Callable[[float], str]]:
    """A column's heading and how its numbers are shown, from the unit that ends its name."""
    base = name.removesuffix("_ci95")
    about = " 95% CI" if base != name else ""
    for suffix, heading, show in _UNITS:
        if base.endswith(suffix):
            return _heading(base.removesuffix(suffix) + heading) + about, show
    if base.endswith("_s"):
        heading, show = _seconds(values)
        return _heading(base.removesuffix("_s") + heading) + about, show
    return _heading(base) + about, _number


def _heading(name: str) -> str:
    return name.replace("_", " ")


def _seconds(values: list[Any]) -> tuple[str, Callable[[float], str]]:
    numbers = [value for value in values if isinstance(value, int | float)]
    numbers += [end for value in values if isinstance(value, list) for end in value]
    largest = max(numbers, default=0.0)
    if largest >= 10:
        return " s", lambda seconds: f"{seconds:,.2f}"
    decimals = 1 if largest >= 0.01 else 3
    return " ms", lambda seconds: f"{seconds * 1e3:,.{decimals}f}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def ratio(value: float) -> str:
    """A ratio to three digits: 48.9x."""
    return f"{value:#.3g}".rstrip(".") + "x" if abs(value) < 999.5 else f"{value:,.0f}x"


def seconds(value: float) -> str:
    """A time to three digits, in its own unit: 3.07 s, 62.7 ms."""
    number, unit = (value, "s") if value >= 0.9995 else (value * 1e3, "ms")
    return f"{f'{number:#.3g}'.rstrip('.')} {unit}" if number < 999.5 else f"{number:,.0f} {unit}"


_UNITS: list[tuple[str, str, Callable[[float], str]]] = [
    ("_bytes_per_s", " MB/s", lambda value: f"{value / 1e6:,.1f}"),
    ("_bits_per_s", " Mbit/s", lambda value: f"{value / 1e6:,.1f}"),
    ("_per_s", "/s", lambda value: f"{value:,.1f}"),
    ("_bytes", " bytes", lambda value: f"{value:,.0f}"),
    ("_share", " share", lambda value: f"{value:.1%}"),
    ("_vs_predicted", " vs predicted", lambda value: f"{value:+.3%}"),
    ("_vs_tcp", " vs tcp", lambda value: f"{value:.3f}x"),
    ("_vs_goodput", " of goodput", lambda value: f"{value:.1%}"),
    ("_us", " us", lambda value: f"{value:,.0f}"),
    ("_ratio", " ratio", ratio),
]
"""The unit that ends a column's name, how its heading ends, and how a number is shown."""


def _alignments(frame: pd.DataFrame) -> list[Alignment]:
    """Text to the left, numbers to the right."""
    return [
        "left" if any(isinstance(value, str) for value in frame[name]) else "right" for name in frame.columns
    ]


def _as_markdown(text: pd.DataFrame, alignments: list[Alignment], title: str | None) -> str:
    table = text.to_markdown(index=False, colalign=alignments, disable_numparse=True)
    return f"### {title}\n\n{table}" if title else table


def _as_latex(text: pd.DataFrame, alignments: list[Alignment], title: str | None) -> str:
    return text.to_latex(
        index=False,
        escape=False,
        caption=title and _escaped(title, "latex"),
        column_format="".join(side[0] for side in alignments),
    ).rstrip("\n")


_PRINTERS = {"markdown": _as_markdown, "latex": _as_latex}

_LATEX_ESCAPES = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
_MARKDOWN_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\|<*"})
"""What would end a cell, begin a tag or be swallowed; an underscore within a word is shown as it is."""

_ESCAPES = {"latex": _LATEX_ESCAPES, "markdown": _MARKDOWN_ESCAPES}
