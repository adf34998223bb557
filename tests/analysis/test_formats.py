"""Formats: what programs read back is what was put in, what people read has units."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import get_args

import pandas as pd
import pytest

from analysis.formats import Format, prose, render, to_json

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
