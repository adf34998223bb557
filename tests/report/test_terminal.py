"""Text and tables keep within the terminal, and nothing is lost where they are split."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distsqz.report.terminal import fit_table, terminal_width, wrap

WORD = st.text("abcXYZ019-_", min_size=1, max_size=24)


def numbered(columns: int, rows: int) -> pd.DataFrame:
    """Cells such as `r3c12`, each found once."""
    return pd.DataFrame(
        [[f"row{row}", *(f"r{row}c{column}." for column in range(columns))] for row in range(rows)],
        columns=["name", *(f"heading {column}" for column in range(columns))],
    )


def fitted(frame: pd.DataFrame, identifying: int = 1) -> str:
    return fit_table(frame, ["left", *(["right"] * (frame.shape[1] - 1))], identifying)


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_the_width_is_that_of_columns_and_120_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width() == 77
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.__stdout__", None)
    assert terminal_width() == 120


@pytest.mark.parametrize(("columns", "rows"), [(3, 40), (30, 2), (30, 40), (1, 1), (60, 1), (0, 3)])
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_every_value_of_a_wide_table_is_printed_once_in_lines_that_fit(
    monkeypatch: pytest.MonkeyPatch, columns: int, rows: int, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = fitted(numbered(columns, rows))
    assert widest(text) <= width
    for row in range(rows):
        for column in range(columns):
            assert text.count(f"r{row}c{column}.") == 1


def test_parts_of_a_split_table_begin_with_the_columns_that_identify_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    frame = numbered(12, 8)
    frame.insert(0, "run", "run1")
    parts = fitted(frame, identifying=2).split("\n\n")
    assert len(parts) > 1
    for part in parts:
        assert part.count("run1  row") == 8


def test_few_rows_with_many_columns_become_a_column_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = fitted(numbered(30, 2)).splitlines()
    assert lines[0].split() == ["name", "row0", "row1"]
    assert lines[2].split() == ["heading", "0", "r0c0.", "r1c0."]


def test_a_table_that_fits_is_neither_split_nor_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    frame = numbered(3, 4)
    frame.iloc[0, 0] = "x" * 90
    assert len(fitted(frame).splitlines()) == 2 + 1 + 4  # heading, rule, rows
    assert "x" * 90 in fitted(frame)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(WORD, min_size=4, max_size=4), min_size=1, max_size=6),
    st.lists(WORD, min_size=4, max_size=4, unique=True),
    st.integers(60, 130),
)
def test_values_of_any_text_are_kept_whole(
    monkeypatch: pytest.MonkeyPatch, rows: list[list[str]], headings: list[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = fitted(pd.DataFrame(rows, columns=headings))
    assert widest(text) <= width
    assert all(value in text for row in rows for value in row[1:])


def test_a_paragraph_is_wrapped_with_its_later_lines_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = wrap("one-two " * 20)
    assert widest(text) <= 40
    assert text.split() == ["one-two"] * 20
    assert all(line.startswith("  one") for line in text.splitlines()[1:])
