"""Rows of a figure: a label, what is noted beside it, and the lines of text that both take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTHS = {"wide": 760, "narrow": 340}
"""Widths of the two drawings of each figure, for screens and for phones, in pixels at their own size."""

LINE = 17
"""Height of a line of text, in pixels."""

CHARACTER = 7.8
"""Width that a character of text is taken to have, in pixels: the mean of a bold font at 12 pixels."""

_BETWEEN = " · "


@dataclass(frozen=True)
class RowText:
    """The text above the bar of a row."""

    label: str
    full_label: str
    note: Markup | None
    """What stands at the right end of the label's line."""
    lines: tuple[Markup, ...]
    """What stands below the label instead where one line has no room for both."""

    @property
    def height(self) -> int:
        """Height of all lines, in pixels."""
        return LINE * (1 + len(self.lines))


def row_text(label: str, parts: Sequence[Markup], width: float) -> RowText:
    """Sets a label and the parts of its note in as few lines as a figure's width allows."""
    note = Markup(_BETWEEN).join(parts)
    if (len(label) + len(note.striptags()) + 2) * CHARACTER <= width:
        return RowText(label, label, note, ())
    most = int(width / CHARACTER)
    return RowText(elided(label, most), label, None, tuple(_wrapped(parts, most)))


def elided(text: str, most: int) -> str:
    """A text of at most `most` characters, its middle left out if it is longer."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def _wrapped(parts: Sequence[Markup], most: int) -> list[Markup]:
    lines: list[Markup] = []
    for part in parts:
        longer = Markup(_BETWEEN).join([*lines[-1:], part])
        if lines and len(longer.striptags()) <= most:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines
