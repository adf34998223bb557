"""Formats: what programs read back is what was put in, what people read has units."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import get_args

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from distsqz.report.formats import prose, render, to_json
from distsqz.report.section import Format

FRAME = pd.DataFrame(
    [
        {
            "model": "squeezenet",
            "params": 1_248_424,
            "tcp_tx_bytes": 4_993_968.5,
            "tcp_vs_predicted": 0.00014,
            "step_s": 0.3091,
            "step_s_ci95": [0.3, 0.32],
            "comm_share": 0.25,
            "busbw_bytes_per_s": 117_000_000.0,
            "step_ratio": 3.2,
            "oversubscribed": False,
        },
        {"model": "a_b|c [bold]x", "params": None, "step_s": float("nan"), "oversubscribed": True},
    ],
    dtype=object,
)


def test_csv_gives_every_value_back_raw() -> None:
    first, second = csv.DictReader(io.StringIO(render(FRAME, "csv")))
    assert list(first) == list(FRAME.columns)
    assert first["params"] == "1248424"
    assert float(first["tcp_tx_bytes"]) == 4_993_968.5
    assert json.loads(first["step_s_ci95"]) == [0.3, 0.32]
    assert second["params"] == second["step_s"] == ""


def test_json_is_strict_and_has_null_for_what_is_no_number() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    first, second = json.loads(render(FRAME, "json"), parse_constant=refuse)
    assert first["params"] == 1_248_424
    assert second["step_s"] is None
    assert json.loads(to_json({"x": [float("inf"), 1.5]}), parse_constant=refuse) == {"x": [None, 1.5]}


def test_latex_is_a_tabular_with_its_text_escaped() -> None:
    text = render(FRAME, "latex", "Cells & bytes")
    assert r"\begin{tabular}{lrrrrrrrrr}" in text
    assert text.count(r"\\") == len(FRAME) + 1
    assert r"a\_b|c" in text
    assert r"25.0\%" in text


def test_markdown_is_a_pipe_table_under_its_title() -> None:
    title, _, header, rule, *rows = render(FRAME, "markdown", "Cells").splitlines()
    assert title == "### Cells"
    assert "tcp tx bytes" in header
    assert re.fullmatch(r"[|:-]+", rule)
    assert len(rows) == len(FRAME)


@pytest.mark.parametrize("fmt", ["table", "markdown"])
def test_people_read_units(fmt: Format) -> None:
    text = render(FRAME, fmt)
    for shown in ("1,248,424", "4,993,968", "+0.014%", "309.1", "[300.0, 320.0]", "25.0%", "117.0", "3.20x"):
        assert shown in text
    for missing in ("nan", "None"):
        assert missing not in text


def test_a_table_is_neither_folded_nor_cropped_nor_read_as_markup() -> None:
    frame = pd.DataFrame([{f"column_{index}": "x" * 40 for index in range(20)}])
    assert render(frame, "table").count("x" * 40) == 20
    assert "a_b|c [bold]x" in render(FRAME, "table")


def test_seconds_from_ten_are_shown_as_seconds() -> None:
    text = render(pd.DataFrame({"step_s": [36.125]}), "table")
    assert "36.12" in text
    assert "ms" not in text


@pytest.mark.parametrize("fmt", get_args(Format))
def test_an_empty_frame_is_rendered(fmt: Format) -> None:
    render(pd.DataFrame({"model": [], "step_s": []}), fmt)


def test_prose_is_escaped_for_latex_only() -> None:
    assert prose(["5% of a_b"], "latex") == r"5\% of a\_b"
    assert prose(["5% of a_b"], "markdown") == "5% of a_b"


NASTY = st.text("ab|\\<*\n\r\t,\"' ", min_size=1).map(lambda text: f"x{text}x")


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of a pipe table, heading first, as a reader of Markdown shows them."""
    rows: list[list[str]] = []
    for token in MarkdownIt().enable("table").parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append("".join(each.content for each in token.children or ()))
    return rows


@settings(deadline=None)
@given(NASTY, NASTY)
def test_markdown_shows_names_as_they_are_and_line_breaks_as_python_writes_them(
    name: str, model: str
) -> None:
    table = render(pd.DataFrame({name: ["first"], "model": [model], "params": [1]}), "markdown")

    def shown(text: str) -> str:
        return text.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")

    assert cells_of(table) == [[shown(name), "model", "params"], ["first", shown(model), "1"]]


@settings(deadline=None)
@given(NASTY, NASTY)
def test_csv_gives_any_name_back(name: str, model: str) -> None:
    page = render(pd.DataFrame({name: ["first"], "model": [model]}), "csv")
    assert list(csv.reader(io.StringIO(page, newline=""))) == [[name, "model"], ["first", model]]


@settings(deadline=None)
@given(NASTY, NASTY)
def test_a_table_keeps_each_row_in_one_line(name: str, model: str) -> None:
    frame = pd.DataFrame({"model": [model, name], "params": [1, 2]})
    for fmt, around in (("table", 2), ("latex", 6)):
        assert len(render(frame, fmt).strip().splitlines()) == around + len(frame)


def test_latex_escapes_title_headings_and_cells_that_would_be_arguments() -> None:
    frame = pd.DataFrame({"50%": ["[draft]", "*", "a~b"]})
    text = render(frame, "latex", "100% & more")
    assert r"\caption{100\% \& more}" in text
    assert r"50\%" in text
    assert "{}[draft]" in text
    assert "{}*" in text
    assert r"a\textasciitilde{}b" in text


def test_prose_stays_one_line_a_sentence() -> None:
    assert prose(["a\nb", "c|d"], "table") == "a\\nb\nc|d"
    assert prose(["a|b"], "markdown") == r"a\|b"
